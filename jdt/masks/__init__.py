"""Masks say which source units each model keeps: designs draw the rows, units give the columns a meaning.

>>> import numpy as np
>>> design = Design("fixed-size", fraction=0.5, seed=0)
>>> sample(design, np.arange(100), num_units=22).shape
(100, 22)
"""

from jdt.masks.atoms import atoms as atoms
from jdt.masks.designs import KINDS as KINDS
from jdt.masks.designs import PAIRED as PAIRED
from jdt.masks.designs import Design as Design
from jdt.masks.designs import DesignKind as DesignKind
from jdt.masks.designs import Listed as Listed
from jdt.masks.designs import check_num_models as check_num_models
from jdt.masks.designs import sample as sample
from jdt.masks.units import OUTSIDE as OUTSIDE
from jdt.masks.units import Units as Units
from jdt.masks.units import by_class as by_class
from jdt.masks.units import by_example as by_example
from jdt.masks.units import by_group as by_group
from jdt.masks.units import divided as divided
from jdt.masks.units import equalized as equalized
from jdt.masks.units import parse as parse
from jdt.masks.units import read_groups as read_groups
