"""Source models: the contract, the zoo, and any Flax module of your own, Linen or NNX.

>>> network = make("small_cnn", num_classes=10)
>>> check_contract(network, image_shape=(8, 8, 1), num_classes=10)
"""

from jdt.models.base import ModelOutput as ModelOutput
from jdt.models.base import Network as Network
from jdt.models.base import Variables as Variables
from jdt.models.contract import check_contract as check_contract
from jdt.models.contract import check_width as check_width
from jdt.models.nnx_modules import NnxModule as NnxModule
from jdt.models.pretrained import load_variables as load_variables
from jdt.models.pretrained import variables_digest as variables_digest
from jdt.models.resnet import ResNet9 as ResNet9
from jdt.models.resnet import ResNet18 as ResNet18
from jdt.models.resnet import ResNet50 as ResNet50
from jdt.models.small_cnn import SmallCNN as SmallCNN
from jdt.models.text import TextTransformer as TextTransformer
from jdt.models.vit import VisionTransformer as VisionTransformer
from jdt.models.wide_resnet import WideResNet as WideResNet
from jdt.models.zoo import ZOO as ZOO
from jdt.models.zoo import build as build
from jdt.models.zoo import make as make
from jdt.models.zoo import parse_arguments as parse_arguments
