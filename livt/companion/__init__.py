"""What a notebook shows: published tables, claims, statistics, figures. Needs the extra ``notebooks``."""
