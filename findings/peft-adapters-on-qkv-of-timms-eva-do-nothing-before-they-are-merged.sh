#!/bin/sh
# version: peft 0.21.2, timm 1.0.31, torch 2.15.0, torchvision 0.29.2, numpy 2.4.6
# guess: LoraConfig(target_modules=["qkv"]) adapts the attention of eva_giant_patch14_224 as it does that of a ViT.
# what happens: timm's EvaAttention adds a bias of its own by F.linear(x, qkv.weight, bias) and never calls qkv, so the
#     adapter changes no output and gets no gradient, without a word; merge_and_unload then adds it. A ViT of timm is
#     adapted as guessed.
# why it matters: fine-tuning large towers after their tokens are reduced goes by adapters. The loss may still fall, by
#     the other adapters and the head, and the merged model is another one than that which was evaluated.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0 torchvision==0.29.2 timm==1.0.31 peft==0.21.2
"$folder/venv/bin/python" - <<'EOF'
import peft
import timm
import torch

print("peft", peft.__version__, "timm", timm.__version__, "torch", torch.__version__)
seen = {}
for name in ("vit_small_patch14_dinov2", "eva_giant_patch14_224"):
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=28, embed_dim=48, depth=2, num_heads=3, num_classes=10).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    images = torch.randn(2, 3, 28, 28)
    before = model(images)
    settings = peft.LoraConfig(r=4, target_modules=["qkv"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, settings).eval()
    out = adapted(images)
    merged = adapted.merge_and_unload()(images)
    seen[name] = [float((each - before).detach().abs().max()) > 1e-3 for each in (out, merged)] + [out.requires_grad]
    print(name, "changes by adapting, by merging, has a gradient:", seen[name])
raise SystemExit(list(seen.values()) != [[True, True, True], [False, True, False]])
EOF
