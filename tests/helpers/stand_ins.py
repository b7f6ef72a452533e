"""Small modules in the place of timm and torchvision, which are made for one PyTorch alone."""

import types
from typing import Any

from torch import Tensor, nn


class _Small(nn.Module):
    """A network as libraries have them: convolution, pooling, a linear head."""

    def __init__(self, channels: int, classes: int, name: str = "fc") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 3, stride=2, padding=1, bias=False)
        self.add_module(name, nn.Linear(4, classes))
        self.head_name = name

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.get_submodule(self.head_name)(self.conv1(x).relu().mean(dim=(2, 3)))
        return logits


def timm_stand_in(made: list[dict[str, Any]]) -> types.ModuleType:
    module: Any = types.ModuleType("timm")
    module.__spec__, module.__version__ = types.SimpleNamespace(), "1.0.31"

    def create_model(name: str, pretrained: bool = False, **given: Any) -> nn.Module:
        made.append({"name": name, "pretrained": pretrained, **given})
        if "img_size" in given and not name.startswith("vit"):
            raise TypeError("ResNet.__init__() got an unexpected keyword argument 'img_size'")
        return _Small(given["in_chans"], given["num_classes"])

    module.create_model = create_model
    module.is_model = lambda name: name in ("resnet18", "vit_tiny_patch16_224")
    module.list_models = lambda: ["resnet18", "vit_tiny_patch16_224"]
    fixed = types.SimpleNamespace(fixed_input_size=True)
    module.models = types.SimpleNamespace(
        get_pretrained_cfg=lambda name: fixed if name.startswith("vit") else None
    )
    return module


def torchvision_stand_in() -> types.ModuleType:
    module: Any = types.ModuleType("torchvision")
    module.__spec__, module.__version__ = types.SimpleNamespace(), "0.29.1"

    def get_model(name: str, weights: str | None = None, num_classes: int = 1000) -> nn.Module:
        if weights is not None and num_classes != 1000:
            raise ValueError("The parameter 'num_classes' expected value 1000")
        model = _Small(3, num_classes)
        if weights is not None:
            nn.init.constant_(model.conv1.weight, 0.5)
        return model

    models: Any = types.ModuleType("torchvision.models")
    models.get_model = get_model
    models.list_models = lambda module=None: ["mobilenet_v3_small", "resnet18"]
    module.models = models
    return module
