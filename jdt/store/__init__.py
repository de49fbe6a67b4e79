"""Runs on disk: one Zarr v3 store per run, written block by block so that a kill loses no completed block.

A writer creates or resumes a run directory, says which blocks are missing, and writes each with a record that makes its
rows data. A reader hands back masks, outputs and names of the complete models, checked against those records.

>>> writer = create_or_open("runs/demo", config={"seed": 0}, provenance={}, schema=schema)  # doctest: +SKIP
>>> for block in writer.missing_blocks(): writer.write_block(block, train(block), {})  # doctest: +SKIP
>>> open_run("runs/demo").outputs("cifar10", mode="fixed", output="margin")  # doctest: +SKIP
"""

from jdt.store.checkup import Checkup as Checkup
from jdt.store.checkup import Fault as Fault
from jdt.store.checkup import check_run as check_run
from jdt.store.create import PLAN_FILE as PLAN_FILE
from jdt.store.create import UNFINISHED as UNFINISHED
from jdt.store.create import create_or_open as create_or_open
from jdt.store.create import refuse_other_directories as refuse_other_directories
from jdt.store.files import Place as Place
from jdt.store.files import is_local as is_local
from jdt.store.files import names_in as names_in
from jdt.store.files import refuse_links as refuse_links
from jdt.store.files import remove_tree as remove_tree
from jdt.store.files import run_path as run_path
from jdt.store.files import write_bytes as write_bytes
from jdt.store.files import write_json as write_json
from jdt.store.groups import Group as Group
from jdt.store.groups import is_group as is_group
from jdt.store.groups import read_group as read_group
from jdt.store.groups import saved_groups as saved_groups
from jdt.store.groups import write_group as write_group
from jdt.store.importers import import_datamodels as import_datamodels
from jdt.store.importers import is_foreign as is_foreign
from jdt.store.reader import TRANSFERS as TRANSFERS
from jdt.store.reader import Run as Run
from jdt.store.reader import open_run as open_run
from jdt.store.reader import saved_run as saved_run
from jdt.store.records import Damage as Damage
from jdt.store.schema import ACCURACY as ACCURACY
from jdt.store.schema import SCHEMA_VERSION as SCHEMA_VERSION
from jdt.store.schema import SPECTRA as SPECTRA
from jdt.store.schema import TRAIN_ACCURACY as TRAIN_ACCURACY
from jdt.store.schema import Fit as Fit
from jdt.store.schema import Schema as Schema
from jdt.store.schema import Target as Target
from jdt.store.schema import safe_name as safe_name
from jdt.store.source_models import LEAVES_FILE as LEAVES_FILE
from jdt.store.source_models import MODELS_KEY as MODELS_KEY
from jdt.store.source_models import Leaf as Leaf
from jdt.store.source_models import SavedPart as SavedPart
from jdt.store.source_models import block_folder as block_folder
from jdt.store.source_models import leaves_bytes as leaves_bytes
from jdt.store.source_models import model_digest as model_digest
from jdt.store.source_models import part_folder as part_folder
from jdt.store.source_models import parts_of as parts_of
from jdt.store.source_models import read_leaves as read_leaves
from jdt.store.source_models import read_models as read_models
from jdt.store.writer import RunWriter as RunWriter
