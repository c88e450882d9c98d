"""What a notebook shows: published tables, claims, statistics, figures. Needs the extra ``notebooks``."""

import warnings

# timm's hub client says so where Jupyter's widgets are missing; the progress here is text.
warnings.filterwarnings("ignore", message="IProgress not found")
