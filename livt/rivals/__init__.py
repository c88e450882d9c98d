"""Other methods on the paper's own seams, one short file for a method or a family.

Importing this package puts their losses into the table (``livt.losses.LOSSES``); nothing else needs to know them.
"""

from livt.rivals import bcl as bcl
from livt.rivals import ldam as ldam
from livt.rivals import ncl as ncl
from livt.rivals import paco as paco
from livt.rivals import ride as ride
from livt.rivals import sade as sade
