"""What torchvision and timm call the layers of our networks.

Each family is a list of (pattern, replacement) on the path of a torch module; the first pattern that matches the whole
path wins, and a path that none matches keeps its name. Our paths join modules by ``/``. Read backwards, the first
replacement that gives our path wins, and of several patterns for it torchvision's stands first. Groups hold no groups.
"""

import itertools
import re
from collections.abc import Iterator

from flax import linen

from jaxcnn.models.alexnet import AlexNet
from jaxcnn.models.convnext import ConvNeXt
from jaxcnn.models.densenet import DenseNet
from jaxcnn.models.googlenet import GoogLeNet
from jaxcnn.models.mobilenet import MobileNet
from jaxcnn.models.resnet import ResNet
from jaxcnn.models.vgg import VGG

Rules = list[tuple[str, str]]

_RESNET: Rules = [  # torchvision and timm agree; se is timm's
    (r"layer(\d)\.(\d+)\.downsample\.0", r"layer\1_\2/downsample"),
    (r"layer(\d)\.(\d+)\.downsample\.1", r"layer\1_\2/downsample_bn"),
    (r"layer(\d)\.(\d+)\.se\.(fc\d)", r"layer\1_\2/se/\3"),
    (r"layer(\d)\.(\d+)\.(\w+)", r"layer\1_\2/\3"),
]
_ALEXNET: Rules = [
    (r"features\.0", "conv1"),
    (r"features\.3", "conv2"),
    (r"features\.6", "conv3"),
    (r"features\.8", "conv4"),
    (r"features\.10", "conv5"),
    (r"classifier\.1", "fc6"),
    (r"classifier\.4", "fc7"),
    (r"classifier\.6", "fc8"),
]
_DENSENET: Rules = [
    (r"features\.denseblock(\d)\.denselayer(\d+)\.(\w+)", r"denseblock\1_denselayer\2/\3"),
    (r"features\.transition(\d)\.(norm|conv)", r"transition\1_\2"),
    (r"features\.(conv0|norm\d)", r"\1"),
]
_GOOGLENET: Rules = [
    (r"inception(\w\w)\.branch([23])\.0\.(conv|bn)", r"inception\1/branch\2_reduce/\3"),
    (r"inception(\w\w)\.branch([234])\.1\.(conv|bn)", r"inception\1/branch\2/\3"),
    (r"inception(\w\w)\.branch1\.(conv|bn)", r"inception\1/branch1/\2"),
    (r"(conv\d|aux\d\.conv)\.(conv|bn)", r"\1/\2"),
]
_CONVNEXT: Rules = [  # torchvision, then timm
    (r"features\.0\.0|stem\.0", "stem"),
    (r"features\.0\.1|stem\.1", "stem_norm"),
    (r"classifier\.0|head\.norm", "norm"),
    (r"classifier\.2|head\.fc", "fc"),
    (r"stages\.(\d)\.downsample\.0", r"downsample\1_norm"),
    (r"stages\.(\d)\.downsample\.1", r"downsample\1"),
    (r"stages\.(\d)\.blocks\.(\d+)\.conv_dw", r"stage\1_\2/depthwise"),
    (r"stages\.(\d)\.blocks\.(\d+)\.norm", r"stage\1_\2/norm"),
    (r"stages\.(\d)\.blocks\.(\d+)\.mlp\.(fc\d)", r"stage\1_\2/\3"),
    (r"stages\.(\d)\.blocks\.(\d+)", r"stage\1_\2"),
]


def our_path(model: linen.Module, torch_path: str) -> str:
    """Path of the module of ours that holds what torch keeps at ``torch_path``, e.g. ``layer1_0/conv1``."""
    for pattern, replacement in rules(model):
        if match := re.fullmatch(pattern, torch_path):
            return match.expand(replacement).replace(".", "/")
    return torch_path.replace(".", "/")


def torch_path(model: linen.Module, our_path: str) -> str:
    """Path of the torch module that holds what we keep at ``our_path``: torchvision's, or timm's where it has none."""
    for pattern, replacement in rules(model):
        for one in re.split(r"\|(?![^()]*\))", pattern):
            groups = re.findall(r"\([^()]*\)", one)
            numbers = [int(number) for number in re.findall(r"\\(\d)", replacement)]
            ours = re.sub(r"\\(\d)", lambda found, of=groups: of[int(found[1]) - 1].replace(r"\.", "/"), replacement)
            if match := re.fullmatch(ours, our_path):
                values, count = dict(zip(numbers, match.groups(), strict=True)), itertools.count(1)
                path = re.sub(r"\([^()]*\)", lambda _, of=values, at=count: of[next(at)], one)
                return path.replace("\\", "").replace("/", ".")
    return our_path.replace("/", ".")


def rules(model: linen.Module) -> Rules:
    """The renamings of a network's family; empty when torch has no such family."""
    if isinstance(model, ResNet):
        return list(_resnet_v2(model)) if model.block.startswith("preact") else _RESNET
    if isinstance(model, AlexNet):
        return _ALEXNET
    if isinstance(model, DenseNet):
        return _DENSENET
    if isinstance(model, GoogLeNet):
        return _GOOGLENET
    if isinstance(model, VGG):
        return list(_vgg(model))
    if isinstance(model, ConvNeXt):
        return list(_convnext(model)) + _CONVNEXT
    if isinstance(model, MobileNet):
        return list(_mobilenet(model))
    return []


def flattened_side(model: linen.Module, ours: str) -> int:
    """Side of the map that a dense layer flattens: torch flattens C, H, W and we H, W, C. 1 for other layers."""
    if isinstance(model, GoogLeNet) and ours.endswith("/fc1"):
        return 4
    if ours != "fc6":
        return 1
    return model.pooled if isinstance(model, VGG) else 6 if isinstance(model, AlexNet) else 1


def is_convolution(model: linen.Module, ours: str) -> bool:
    """Whether torch writes a dense layer of ours as a convolution of one pixel."""
    return "se" in ours.split("/") or (isinstance(model, ResNet) and model.block.startswith("preact") and ours == "fc")


def takes_centred_pixels(model: linen.Module) -> bool:
    """Whether published weights take pixels from -1 to 1: torchvision's of GoogLeNet, timm's of pre-activation ResNets."""
    return isinstance(model, GoogLeNet) or (isinstance(model, ResNet) and model.block.startswith("preact"))


def _resnet_v2(model: ResNet) -> Iterator[tuple[str, str]]:
    """timm: stages counted from 0, norms called ``norm`` (torchvision has no pre-activation networks)."""
    yield r"stem\.conv", "conv1"
    yield "norm", "bn_last"
    yield r"head\.fc", "fc"
    for stage in range(len(model.depths)):
        here = rf"stages\.{stage}\.blocks\.(\d+)"
        yield rf"{here}\.downsample\.conv", rf"layer{stage + 1}_\1/downsample"
        yield rf"{here}\.norm(\d)", rf"layer{stage + 1}_\1/bn\2"
        yield rf"{here}\.(conv\d)", rf"layer{stage + 1}_\1/\2"


def _vgg(model: VGG) -> Iterator[tuple[str, str]]:
    """torchvision numbers all layers of ``features`` in order, ReLU and pooling too; timm's dense layers are convolutions."""
    position = 0
    for i, sizes in enumerate(model.blocks, start=1):
        for j in range(1, len(sizes) + 1):
            yield rf"features\.{position}", f"conv{i}_{j}"
            yield rf"features\.{position + 1}", f"bn{i}_{j}"
            position += 3 if model.batch_norm else 2
        position += 1
    yield r"classifier\.0|pre_logits\.fc1", "fc6"
    yield r"classifier\.3|pre_logits\.fc2", "fc7"
    yield r"classifier\.6|head\.fc", "fc8"


def _convnext(model: ConvNeXt) -> Iterator[tuple[str, str]]:
    """torchvision: ``features`` alternates stages (odd) and downsamplings (even)."""
    for stage in range(len(model.depths)):
        if stage:
            yield rf"features\.{2 * stage}\.0", f"downsample{stage}_norm"
            yield rf"features\.{2 * stage}\.1", f"downsample{stage}"
        for index, name in (("0", "depthwise"), ("2", "norm"), ("3", "fc1"), ("5", "fc2")):
            yield rf"features\.{2 * stage + 1}\.(\d+)\.block\.{index}", rf"stage{stage}_\1/{name}"
        yield rf"features\.{2 * stage + 1}\.(\d+)", rf"stage{stage}_\1"


def _mobilenet(model: MobileNet) -> Iterator[tuple[str, str]]:
    """torchvision: MobileNetV2 numbers its blocks in ``features``, EfficientNet its stages; timm: blocks.STAGE.BLOCK."""
    yield r"features\.0\.0|conv_stem", "stem/conv"
    yield r"features\.0\.1|bn1", "stem/bn"
    last = len(model.rows) + 1 if model.squeeze else sum(row[2] for row in model.rows) + 1
    yield rf"features\.{last}\.0|conv_head", "head/conv"
    yield rf"features\.{last}\.1|bn2", "head/bn"
    yield r"classifier\.1|classifier", "fc"
    number = 0
    for stage, (expand, _, repeats, _, _) in enumerate(model.rows, start=1):
        parts = ["expand", "depthwise", "project"] if expand != 1 else ["depthwise", "project"]
        for i in range(repeats):
            number += 1
            here, timm = f"stage{stage}_{i}", rf"blocks\.{stage - 1}\.{i}"
            if model.squeeze:
                where = rf"features\.{stage}\.{i}\.block"
                yield rf"{where}\.{len(parts) - 1}\.(fc\d)", rf"{here}/se/\1"
                order = [*range(len(parts) - 1), len(parts)]
                for k, part in zip(order, parts, strict=True):
                    yield rf"{where}\.{k}\.0", f"{here}/{part}/conv"
                    yield rf"{where}\.{k}\.1", f"{here}/{part}/bn"
            else:
                where = rf"features\.{number}\.conv"
                for k, part in enumerate(parts[:-1]):
                    yield rf"{where}\.{k}\.0", f"{here}/{part}/conv"
                    yield rf"{where}\.{k}\.1", f"{here}/{part}/bn"
                yield rf"{where}\.{len(parts) - 1}", f"{here}/project/conv"
                yield rf"{where}\.{len(parts)}", f"{here}/project/bn"
            yield rf"{timm}\.conv_dw", f"{here}/depthwise/conv"
            for k, part in enumerate(parts, start=1):
                yield rf"{timm}\.bn{k}", f"{here}/{part}/bn"
            yield rf"{timm}\.conv_pwl", f"{here}/project/conv"
            yield rf"{timm}\.conv_pw", f"{here}/{'expand' if expand != 1 else 'project'}/conv"
            yield rf"{timm}\.se\.conv_reduce", f"{here}/se/fc1"
            yield rf"{timm}\.se\.conv_expand", f"{here}/se/fc2"
