#!/bin/sh
# version: peft 0.21.2, torch 2.15.0, torchvision 0.29.2, numpy 2.4.6
# guess: LoraConfig(target_modules=["out_proj"]) on torchvision's ViT adapts the output projection of each attention.
# what happens: nn.MultiheadAttention reads the weight of out_proj and never calls it, so the adapter changes no output
#     and gets no gradient, without a word; merge_and_unload then adds it, and the outputs change. target_modules
#     "all-linear" puts adapters there too.
# why it matters: who fine-tunes a model with fewer tokens does so by adapters, and compares the adapted model with
#     the merged one. Code that calls out_proj, as some that reads blocks does, gives a third answer.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0 torchvision==0.29.2 peft==0.21.2
"$folder/venv/bin/python" - <<'EOF'
import peft
import torch
from torchvision.models import VisionTransformer

print("peft", peft.__version__, "torch", torch.__version__)
torch.manual_seed(0)
model = VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=3, hidden_dim=48, mlp_dim=96).eval()
torch.nn.init.normal_(model.heads.head.weight)
images = torch.randn(2, 3, 32, 32)
before = model(images)
settings = peft.LoraConfig(r=4, target_modules=["out_proj"], init_lora_weights=False)
adapted = peft.get_peft_model(model, settings).eval()
out = adapted(images)
merged = adapted.merge_and_unload()(images)
adapting, merging = (float((each - before).detach().abs().max()) for each in (out, merged))
print(f"adapted: the largest logit moves by {adapting:.1e}, a gradient: {out.requires_grad}; merged: by {merging:.1e}")
raise SystemExit(not (adapting < 1e-4 and not out.requires_grad and merging > 0.1))
EOF
