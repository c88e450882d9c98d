"""Other methods on the paper's own seams, one short file for a method or a family.

Importing this package puts their losses into the table (``livt.losses.LOSSES``) and their second stages into that of
``livt.rivals.methods``; nothing else needs to know them.
"""

import livt.rivals.crt
import livt.rivals.disalign
import livt.rivals.lws
import livt.rivals.mislas
import livt.rivals.neighbours
import livt.rivals.taunorm
import livt.rivals.weight_balancing  # noqa: F401  the last of them names them all
