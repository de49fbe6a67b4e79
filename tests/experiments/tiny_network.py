"""A network for tests, and the processes they start, that are not about networks: it compiles in no time."""

import flax.linen as nn


class Linear(nn.Module):
    """One layer of features."""

    @nn.compact
    def __call__(self, images, *, train: bool):
        return nn.relu(nn.Dense(16)(images.reshape(len(images), -1)))
