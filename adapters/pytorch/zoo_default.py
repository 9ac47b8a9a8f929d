"""Exports classifiers of torchvision and timm with random weights, as torch.onnx.export writes them by default.

    python zoo_default.py torchvision|timm OUTDIR [MODEL ...]
"""

import sys
import warnings
from pathlib import Path

framework = sys.argv.pop(1)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timm
import torch
import torchvision
from torch import nn

import zoo

TORCHVISION = [
    "alexnet", "vgg11_bn", "squeezenet1_1", "densenet121", "googlenet", "inception_v3", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5",
    "shufflenet_v2_x1_0", "resnet18", "resnet50", "resnext50_32x4d", "efficientnet_b0", "efficientnet_v2_s", "regnet_x_400mf", "regnet_y_400mf",
    "convnext_tiny", "vit_b_32", "swin_t", "swin_v2_t",
]
TIMM = [
    "resnet10t", "seresnext26d_32x4d", "ecaresnet26t", "efficientnet_lite0", "mixnet_s", "ghostnet_100", "hrnet_w18_small", "repvgg_a0", "mobileone_s0",
    "convnextv2_atto", "deit_tiny_patch16_224", "levit_128s", "mobilevit_xxs", "edgenext_xx_small", "poolformer_s12", "cait_xxs24_224",
    "xcit_nano_12_p16_224", "mixer_s32_224", "resmlp_12_224", "pit_ti_224", "efficientformer_l1", "fastvit_t8", "ese_vovnet19b_dw", "nfnet_l0", "dla34",
]


def export(name, path):
    torch.manual_seed(0)
    if framework == "timm":
        model = timm.create_model(name, pretrained=False, num_classes=10)
        size = model.pretrained_cfg["input_size"][1]
    else:
        more = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(name, weights=None, num_classes=10, **more)
        size = 299 if name == "inception_v3" else 224
    # Heads and scales that begin at zero would keep gradients from all that stands before them.
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.uniform_(parameter, 0.05, 0.1)
    normalisations = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in normalisations:
        if module.affine:
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    momentum = [module.momentum for module in normalisations]
    for module in normalisations:
        module.momentum = 0.3
    model.train()
    with torch.no_grad():
        for _ in range(3 if normalisations else 0):
            model(torch.randn(4, 3, size, size))
    for module, value in zip(normalisations, momentum):
        module.momentum = value
    model.eval()
    torch.onnx.export(model, (torch.randn(1, 3, size, size),), path, verbose=False)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    zoo.export_all(framework, "torch.onnx.export", {"torchvision": TORCHVISION, "timm": TIMM}[framework], export)
