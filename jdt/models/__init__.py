"""Source models: the contract, the zoo, and any Flax Linen module of your own.

>>> network = make("small_cnn", num_classes=10)
>>> check_contract(network, image_shape=(8, 8, 1), num_classes=10)
"""

from jdt.models.base import ModelOutput as ModelOutput
from jdt.models.base import Network as Network
from jdt.models.base import Variables as Variables
from jdt.models.base import check_contract as check_contract
from jdt.models.pretrained import load_variables as load_variables
from jdt.models.pretrained import variables_digest as variables_digest
from jdt.models.resnet import ResNet9 as ResNet9
from jdt.models.resnet import ResNet18 as ResNet18
from jdt.models.small_cnn import SmallCNN as SmallCNN
from jdt.models.zoo import ZOO as ZOO
from jdt.models.zoo import make as make
