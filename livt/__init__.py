"""LiVT, executable: Vision Transformers on long-tailed data by masked pretraining and balanced fine-tuning.

Importing this package imports nothing heavy; import the module you need, for example
``from livt.losses import BalancedBinaryCrossEntropy``.
"""

__version__ = "0.1.0"
