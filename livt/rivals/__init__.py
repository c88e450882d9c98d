"""Other methods on the paper's own seams, one short file for a method or a family.

Importing this package puts their losses into the table (``livt.losses.LOSSES``); nothing else needs to know them.
"""

from livt.rivals import causal as causal
from livt.rivals import class_balanced as class_balanced
from livt.rivals import drw as drw
from livt.rivals import focal as focal
from livt.rivals import gcl as gcl
from livt.rivals import lade as lade
from livt.rivals import ldam as ldam
