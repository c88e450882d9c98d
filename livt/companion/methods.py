"""The methods of the leaderboard as a page names them: their titles and families."""

from livt.lab.leaderboard import FIRST
from livt.losses import LOSSES
from livt.rivals.methods import METHODS

# Post-hoc logit adjustment (Menon et al., ICLR 2021): it trains nothing, and is a part of the record of each run of CE.
ADJUSTED = "ce, adjusted"
# Each method of the leaderboard by what it changes.
FAMILIES = {
    "no balancing": ("ce", "bce", "ce, mixup", "ce, weight decay x 10"),
    "class priors": ("bal_ce", "bal_bce", "lade", "drw_bal_bce", ADJUSTED),
    "weights and margins": ("focal", "cb_ce", "ldam", "ldam_drw", "gcl", "causal"),
    "sampling": ("ce, class sampling", "ce, square-root sampling"),
    "second stage": ("crt", "lws", "tau_norm", "disalign", "mislas", "weight_balancing", "gcl, balanced head"),
    "several experts": ("ride", "sade", "sade, aggregated", "ncl"),
    "contrastive": ("paco", "bcl"),
    "neighbours": ("class_means", "nearest_feature", "nearest_pixels"),
}
# What the paper's Tables 2 to 4 call methods of the leaderboard. Logit adjustment and BS are one loss, and GCL's own
# paper ends with a balanced head. Not listed: LiVT and MAE, whose pretraining the tables' CE has not.
PRINTED = {
    "Focal": "focal",
    "LDAM": "ldam",
    "c-RT": "crt",
    "τ-Norm": "tau_norm",
    "LWS": "lws",
    "Causal": "causal",
    "Logit Adj.": "bal_ce",
    "BS": "bal_ce",
    "LADE": "lade",
    "RIDE(4E)": "ride",
    "MiSLAS": "mislas",
    "DisAlign": "disalign",
    "PaCo": "paco",
    "TADE": "sade",
    "LTR-WD": "weight_balancing",
    "GCL": "gcl, balanced head",
    "BCL": "bcl",
    "NCL": "ncl",
}
# LiVT's own loss, and that loss with a schedule of weights: no rivals of it.
OWN = ("bal_bce", "drw_bal_bce")


def family(method: str) -> str:
    """Return the family of a method of the leaderboard, "other" for one that no family lists."""
    return next((name for name, members in FAMILIES.items() if method in members), "other")


def title(method: str) -> str:
    """Return a method of the leaderboard as the book writes it.

    >>> title("bal_ce"), title("crt"), title("ce, mixup")
    ('Bal-CE', 'cRT', 'CE, mixup')
    """
    if method in FIRST:
        return METHODS[method].title
    loss, _, change = method.partition(", ")
    return LOSSES[loss].title + (f", {change}" if change else "")
