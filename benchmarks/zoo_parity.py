"""Do the zoo's networks compute what torchvision's do, with the same weights?

Run       python benchmarks/zoo_parity.py --json zoo_parity.json
Small     python benchmarks/zoo_parity.py --cases "resnet18 32, 3x3 stem" "vit 32"
Needs     jdt, torch, torchvision (`pip install -e '.[bench]'`)

A torchvision network is given random weights, random BatchNorm scales, shifts and statistics (never 0 or 1), which are
copied into the network of `jdt.models`; both are applied to the same images in inference mode, in float32. The figures
are the largest absolute differences of logits and of features, for the module as it is and for each way in which
`jdt.train` computes its convolutions. Beside them: torchvision's own float32 against its own float64, which is what
rounding alone does to such a network.

torchvision has no residual network for small images: `3x3 stem` replaces its first convolution and leaves out its first
pooling, as is usual for CIFAR.
"""

# pyright: reportMissingImports=false

import argparse
import copy
import functools
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchvision
from machine import aligned, device_name, note, versions

import jdt
from jdt.models import ModelOutput, Network, Variables
from jdt.train.layout import batch_last

CLASSES = 1000
RESIDUAL_NAMES = {
    r"conv1": "stem", r"bn1": "norm", r"fc": "head",
    r"layer(\d)\.(\d)\.conv(\d)": r"stage\1[\2]/conv\3", r"layer(\d)\.(\d)\.bn(\d)": r"stage\1[\2]/norm\3",
    r"layer(\d)\.(\d)\.downsample\.0": r"stage\1[\2]/shortcut",
    r"layer(\d)\.(\d)\.downsample\.1": r"stage\1[\2]/norm_shortcut",
}  # fmt: skip
TRANSFORMER_NAMES = {
    r"conv_proj": "patches", r"encoder\.ln": "norm", r"heads\.head": "head",
    r"encoder\.layers\.encoder_layer_(\d+)\.ln_(\d)": r"block<\1>/norm\2",
    r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj": r"block<\1>/attention/query_key_value",
    r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj": r"block<\1>/attention/out",
    r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.0": r"block<\1>/mlp1",
    r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.3": r"block<\1>/mlp2",
}  # fmt: skip
"""A torchvision layer's name as a regular expression, and Flax's path; [0] becomes the letter a, <0> the number 1."""
WHOLE = {"class_token": "token", "encoder.pos_embedding": "positions"}
"""Arrays that are no layer's."""
KINDS = {"weight": "kernel", "bias": "bias", "running_mean": "mean", "running_var": "var"}


class Case(NamedTuple):
    """A network of torchvision beside its twin.

    Attributes:
      reference: Makes torchvision's, with logits of 1,000 classes.
      head: Name of its last layer, whose input are the features.
      names: From its layers to Flax's.
      twin: The zoo's network.
      image_size: Height and width of the images.
    """

    reference: Callable[[], Any]
    head: str
    names: Mapping[str, str]
    twin: Any
    image_size: int


def small_stem(network: Any) -> Any:
    """Give a residual network of torchvision the first layer that is usual for small images."""
    network.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = torch.nn.Identity()
    return network


def _transformer(image_size: int, patch: int) -> Any:
    return torchvision.models.VisionTransformer(
        image_size=image_size, patch_size=patch, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768,
        num_classes=CLASSES,
    )  # fmt: skip


def cases() -> dict[str, Case]:
    """All comparisons by name."""
    found: dict[str, Case] = {}
    for name, module in (("resnet18", jdt.models.ResNet18), ("resnet50", jdt.models.ResNet50)):
        make = getattr(torchvision.models, name)
        for size in (64, 224):
            found[f"{name} {size}"] = Case(make, "fc", RESIDUAL_NAMES, module(CLASSES, small_stem=False), size)
        small = module(CLASSES, small_stem=True)
        found[f"{name} 32, 3x3 stem"] = Case(lambda m=make: small_stem(m()), "fc", RESIDUAL_NAMES, small, 32)
    for size, patch in ((32, 4), (224, 16)):
        twin = jdt.models.VisionTransformer(CLASSES, patch=patch)
        make = functools.partial(_transformer, size, patch)
        found[f"vit {size}"] = Case(make, "heads.head", TRANSFORMER_NAMES, twin, size)
    return found


def flax_variables(state: Mapping[str, np.ndarray], names: Mapping[str, str], like: Variables) -> Variables:
    """Convert a PyTorch state dict to a Flax module's variables.

    Kernels of convolutions go from `[out, in, height, width]` to `[height, width, in, out]`, of dense layers from
    `[out, in]` to `[in, out]`; the rest keeps its order.

    Args:
      state: Arrays by PyTorch's names.
      names: From a layer's name, as a regular expression, to the path of the Flax layer: see `RESIDUAL_NAMES`.
      like: Variables of the Flax module, or their shapes.

    Raises:
      ValueError: If the two networks do not have the same arrays, in the same shapes.
    """
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(like)
    }
    found: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        path = _flax_path(name, names)
        if f"params/{path}" not in shapes and path.endswith("/kernel"):  # The weight of a normalisation.
            path = path.removesuffix("kernel") + "scale"
        if value.ndim == 4 or (value.ndim == 2 and path.endswith("/kernel")):
            value = value.transpose({4: (2, 3, 1, 0), 2: (1, 0)}[value.ndim])
        statistic = path.endswith(("/mean", "/var"))
        found[f"state/batch_stats/{path}" if statistic else f"params/{path}"] = value
    if {path: value.shape for path, value in found.items()} != shapes:
        odd = sorted(p for p in {*found, *shapes} if p not in found or p not in shapes or found[p].shape != shapes[p])
        raise ValueError(f"{len(odd)} arrays of the two networks differ in name or shape, the first is {odd[0]}.")
    leaves = [jnp.asarray(found[path]) for path in shapes]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _flax_path(name: str, names: Mapping[str, str]) -> str:
    if name in WHOLE:
        return WHOLE[name]
    layer, kind = re.fullmatch(r"(.+)[._](weight|bias|running_mean|running_var)", name).groups()  # pyright: ignore
    for pattern, path in names.items():
        if match := re.fullmatch(pattern, layer):
            path = match.expand(path)
            path = re.sub(r"\[(\d)\]", lambda index: "abcdef"[int(index[1])], path)
            return re.sub(r"<(\d+)>", lambda index: str(int(index[1]) + 1), path) + "/" + KINDS[kind]
    raise ValueError(f"no Flax layer is known for {layer}.")


def randomise(network: Any, image_size: int) -> None:
    """Fill a PyTorch network with random values, at which signals neither vanish nor blow up.

    BatchNorm's statistics become those of a batch of noise.
    """
    generator = torch.Generator().manual_seed(0)

    def uniform(like: Any, low: float, high: float) -> Any:
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    def normal(like: Any, deviation: float) -> Any:
        return deviation * torch.randn(like.shape, generator=generator)

    norms = (torch.nn.BatchNorm2d, torch.nn.LayerNorm)
    with torch.no_grad():
        for module in network.modules():
            for name, value in module.named_parameters(recurse=False):
                if isinstance(module, norms):
                    value.copy_(uniform(value, 0.5, 1.5) if name == "weight" else normal(value, 0.2))
                elif "weight" in name:
                    value.copy_(normal(value, value[0].numel() ** -0.5))
                else:  # Biases, positions, the class token.
                    value.copy_(normal(value, 0.2))
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # Average over all batches seen: here the one.
                module.reset_running_stats()
        network.train()(torch.randn((4, 3, image_size, image_size), generator=generator))
    network.eval()


def reference_output(network: Any, head: str, images: np.ndarray) -> ModelOutput:
    """Logits and features of a PyTorch network for images `[batch, height, width, channels]`."""
    features: list[Any] = []
    hook = network.get_submodule(head).register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.no_grad():
        logits = network(torch.from_numpy(images).permute(0, 3, 1, 2))
    hook.remove()
    return ModelOutput(logits.numpy(), features[0].numpy())


def compare(name: str, ways: tuple[str, ...] = ("native", "matmul", "winograd"), batch: int = 4) -> dict[str, Any]:
    """Compare one network with its twin.

    Args:
      name: Key of `cases()`.
      ways: How the twin's convolutions are computed.
      batch: Images.

    Returns:
      A record: largest absolute differences of logits and of features, by way, and how large these are themselves.
    """
    case = cases()[name]
    shape = (case.image_size, case.image_size, 3)
    images = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
    network = case.reference()
    randomise(network, case.image_size)
    wanted = reference_output(network, case.head, images)
    exact = reference_output(copy.deepcopy(network).double(), case.head, images.astype(np.float64))
    twin = Network(case.twin)
    like = jax.eval_shape(lambda key: twin.init(key, shape), jax.random.key(0))
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    variables = flax_variables(state, case.names, like)
    differences = {"torchvision float32 against its float64": _difference(wanted, exact)}
    for way in ways:
        apply: Any = twin.apply if way == "native" else batch_last(twin.apply, way)  # pyright: ignore
        with jax.default_matmul_precision("float32"):
            differences[f"jdt {way}"] = _difference(jax.jit(apply)(variables, jnp.asarray(images)), wanted)
    return {
        "case": name,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables.params)),
        "largest": {"logits": float(abs(wanted.logits).max()), "features": float(abs(wanted.features).max())},
        "largest_difference": differences,
        "batch": batch,
        "device": device_name(),
        "versions": versions("jdt", "jax", "jaxlib", "flax", "torch", "torchvision"),
    }


def _difference(ours: ModelOutput, theirs: ModelOutput) -> dict[str, float]:
    return {
        field: float(np.abs(np.asarray(getattr(ours, field)) - getattr(theirs, field)).max())
        for field in ModelOutput._fields
    }


def main(argv: list[str] | None = None) -> None:
    """Compare what the command line asks for, print a table, and write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(cases()), default=list(cases()))
    parser.add_argument("--json", type=pathlib.Path, help="where the records go")
    args = parser.parse_args(argv)
    records, cells = [], [["case", "largest logit", "computed by", "logits differ by", "features differ by"]]
    for name in args.cases:
        note(f"{name} ...")
        records.append(compare(name))
        for way, found in records[-1]["largest_difference"].items():
            largest = f"{records[-1]['largest']['logits']:.1f}"
            cells.append([name, largest, way, f"{found['logits']:.1e}", f"{found['features']:.1e}"])
    print(aligned(cells))
    if args.json:
        args.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
