"""What a method's own options must be."""


def require(holds: bool, name: str, must: str, value: float, section: str = "finetune") -> None:
    """Raise ValueError naming the option of a recipe's section, what it must be and what it is, unless ``holds``.

    >>> require(-1 >= 0, "gamma", "must not be negative", -1)
    Traceback (most recent call last):
    ValueError: finetune.options.gamma must not be negative, not -1
    """
    if not holds:
        raise ValueError(f"{section}.options.{name} {must}, not {value:g}")
