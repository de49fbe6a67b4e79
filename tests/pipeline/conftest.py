import flax.linen as nn
import numpy as np
import pytest

from jdt import data, masks, models, pipeline, train, transfer

CLASSES, PER_CLASS = 4, 20


def images_of(labels, rng):
    images = rng.integers(0, 120, (len(labels), 6, 6, 1)).astype(np.uint8)
    images[np.arange(len(labels)), labels, labels] = 255
    return images


def dataset(name, seed, per_class):
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), per_class)
    return data.from_arrays(name, images_of(labels, np.random.default_rng(seed)), labels, ["a", "b", "c", "d"])


class Layered(nn.Module):
    """A network with statistics that compiles in no time."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = nn.Dense(8, name="dense")(images.reshape(len(images), -1))
        features = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        return nn.Dense(self.num_classes, name="head")(features), features


@pytest.fixture(scope="session")
def network():
    return models.Network(Layered(CLASSES))


@pytest.fixture(scope="session")
def make_task():
    source, source_test = dataset("source", 0, PER_CLASS), dataset("source test", 1, 5)
    target = pipeline.TargetData("target", dataset("target train", 2, 10), dataset("target test", 3, 12))

    def make(
        kind="antithetic",
        *,
        num_models=8,
        block_size=2,
        module=None,
        targets=(target,),
        plan="matmul",
        num_devices=1,
        **kwargs,
    ):
        recipe = train.Recipe(**{"epochs": 2, "batch_size": 8, "learning_rate": 0.05, **kwargs})
        return pipeline.Task(
            source=source,
            source_test=source_test,
            units=masks.by_class(np.asarray(source.labels), source.class_names),
            targets=tuple(targets),
            design=masks.Design(kind, 0.5, seed=5),
            num_models=num_models,
            block_size=block_size,
            network=models.Network(module or Layered(CLASSES)),
            recipe=recipe,
            plan=train.PLANS[plan],
            head=transfer.FixedFeature(),
            num_devices=num_devices,
        )

    return make


@pytest.fixture
def open_writer(tmp_path):
    from jdt import store

    def open_(task, name="run", config=None):
        return store.create_or_open(
            tmp_path / name,
            config=config or {"design": {"kind": task.design.kind}},
            provenance={"output": "confidence"},
            schema=task.schema(),
        )

    return open_
