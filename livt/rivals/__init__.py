"""Other methods on the paper's own seams, one short file for a method or a family.

Importing this package puts their losses into the table (``livt.losses.LOSSES``) and their second stages into that of
``livt.rivals.methods``; nothing else needs to know them.
"""

# ruff: noqa: F401
import livt.rivals.aggregation
import livt.rivals.bcl
import livt.rivals.causal
import livt.rivals.class_balanced
import livt.rivals.crt
import livt.rivals.disalign
import livt.rivals.drw
import livt.rivals.focal
import livt.rivals.gcl
import livt.rivals.lade
import livt.rivals.ldam
import livt.rivals.lws
import livt.rivals.mdcs
import livt.rivals.mislas
import livt.rivals.ncl
import livt.rivals.neighbours
import livt.rivals.paco
import livt.rivals.probed
import livt.rivals.ride
import livt.rivals.sade
import livt.rivals.taunorm
import livt.rivals.weight_balancing
