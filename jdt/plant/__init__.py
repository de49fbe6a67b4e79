"""Known truth put into source data, so that finding it again has a score: `Planted` says where it is.

Every function gives a new dataset and where the truth lies in it. With `is_control` the same places keep the images
(or labels) that they had: what is "found" there is what the search finds where nothing is.

Triggers are patterns that some images carry: `parse_trigger` reads one, its `stamp` makes it for images of a shape,
`carriers` draws who carries it, `with_versions` and `stamped_view` put it on. `correlated_subsets` and `composition`
choose examples whose label goes together with a group, such as one that `planted_attribute` makes.

`LabelNoise` is a kind of wrong labels; `noisy_labels` gives them at a rate, `noise_versions` a pool in which every rate
and seed is a mask; `swap_captions` is the same for texts. `textures` and `random_pixels` are images that nobody took.

>>> import numpy as np
>>> from jdt.data import from_arrays
>>> images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
>>> source = from_arrays("source", images[:4], [0, 0, 1, 1], ["beagle", "tabby"])
>>> target = from_arrays("target", images[4:], [0, 1], ["dog", "cat"])
>>> fits = {"dog": ["beagle"], "cat": ["tabby"]}
>>> data, planted = leaked_copies(source, target, 1, fits=fits, seed=0, changes=["flip"])
>>> bool((data.images[planted.source[0]] == target.images[planted.target[0], :, ::-1]).all())
True
"""

from jdt.plant.base import Kind as Kind
from jdt.plant.base import Planted as Planted
from jdt.plant.base import draws as draws
from jdt.plant.changes import CHANGES as CHANGES
from jdt.plant.changes import Change as Change
from jdt.plant.changes import changed as changed
from jdt.plant.copies import leaked_copies as leaked_copies
from jdt.plant.copies import misleading_copies as misleading_copies
from jdt.plant.generated import TEXTURES as TEXTURES
from jdt.plant.generated import random_pixels as random_pixels
from jdt.plant.generated import textures as textures
from jdt.plant.groups import balanced_cells as balanced_cells
from jdt.plant.groups import composition as composition
from jdt.plant.groups import correlated_subsets as correlated_subsets
from jdt.plant.groups import phi as phi
from jdt.plant.groups import planted_attribute as planted_attribute
from jdt.plant.labels import NOISE_KINDS as NOISE_KINDS
from jdt.plant.labels import LabelNoise as LabelNoise
from jdt.plant.labels import NoiseDraw as NoiseDraw
from jdt.plant.labels import NoiseKind as NoiseKind
from jdt.plant.labels import NoiseVersions as NoiseVersions
from jdt.plant.labels import Noisy as Noisy
from jdt.plant.labels import SwappedCaptions as SwappedCaptions
from jdt.plant.labels import draw_noise as draw_noise
from jdt.plant.labels import draw_within as draw_within
from jdt.plant.labels import evenly_shuffled as evenly_shuffled
from jdt.plant.labels import noise_versions as noise_versions
from jdt.plant.labels import noisy_labels as noisy_labels
from jdt.plant.labels import read_class_map as read_class_map
from jdt.plant.labels import swap_captions as swap_captions
from jdt.plant.parsing import Trigger as Trigger
from jdt.plant.parsing import parse_trigger as parse_trigger
from jdt.plant.pictures import Overlay as Overlay
from jdt.plant.pictures import Stencil as Stencil
from jdt.plant.pictures import read_stencils as read_stencils
from jdt.plant.triggers import GaussianPattern as GaussianPattern
from jdt.plant.triggers import Square as Square
from jdt.plant.triggers import Stamp as Stamp
from jdt.plant.triggers import Tint as Tint
from jdt.plant.triggers import shuffled as shuffled
from jdt.plant.versions import Versions as Versions
from jdt.plant.versions import carriers as carriers
from jdt.plant.versions import stamped_view as stamped_view
from jdt.plant.versions import with_versions as with_versions
from jdt.plant.wrong import harmful_unit as harmful_unit
from jdt.plant.wrong import mislabelled_unit as mislabelled_unit
