"""The usual recipe, to compare with: transformers' MPT in NF4 by bitsandbytes, PEFT, batch 1, no packing, float16.

What the community's PhoGPT notebook does with TRL's SFTTrainer, without the trainer around it (which only adds time):
double-quantised NF4, float16 compute, rank 32 on the four linear layers, paged_adamw_32bit, gradient clipping, one item a
step, loss over its labelled tokens. transformers' MPT has no biases, so this computes a little less than PhoGPT.
"""

import time
from typing import Any

import torch

from hoidap.model.config import MPTConfig
from hoidap.prompt import Rendered


def usual_recipe(config: MPTConfig, documents: list[Rendered], rank: int, alpha: int) -> dict[str, Any]:
    """Train on ``documents``, one a step; the first two steps warm up and are not timed."""
    import bitsandbytes as bnb
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    model = _quantized_mpt(config)
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    targets = ["Wqkv", "out_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.05, target_modules=targets))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = bnb.optim.PagedAdamW32bit(trained, lr=1e-4)
    scaler = torch.amp.GradScaler("cuda")
    started = 0.0
    for number, document in enumerate(documents):
        if number == 2:
            torch.cuda.synchronize()
            started = time.perf_counter()
        ids = torch.tensor([document.token_ids], device="cuda")
        labels = torch.tensor([[t if c else -100 for t, c in zip(document.token_ids, document.in_answer, strict=True)]])
        with torch.autocast("cuda", torch.float16):
            loss = model(input_ids=ids, labels=labels.to("cuda")).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    free, total = torch.cuda.mem_get_info()
    timed = documents[2:]
    return {
        "what": "transformers MPT + bitsandbytes NF4 + PEFT, float16, batch 1, paged_adamw_32bit, no trainer",
        "items_per_s": len(timed) / seconds,
        "tokens_per_s": sum(len(d.token_ids) for d in timed) / seconds,
        "driver_gib": (total - free) / 2**30,
    }


def _quantized_mpt(config: MPTConfig) -> Any:
    """Build transformers' MPT with random weights in NF4, one layer at a time, so that 16 bits of all never exist."""
    import bitsandbytes as bnb
    from transformers import MptConfig, MptForCausalLM

    settings = MptConfig(
        d_model=config.d_model, n_heads=config.n_heads, n_layers=config.n_layers, vocab_size=config.vocab_size,
        max_seq_len=1024, use_cache=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = MptForCausalLM(settings).to(torch.float16)
    model.transformer.wte.to_empty(device="cuda")
    model.transformer.wte.weight.data.normal_(0, 0.02)
    model.lm_head.weight = model.transformer.wte.weight
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.to_empty(device="cuda")
            module.weight.data.fill_(1.0)
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear) and name != "lm_head":
                setattr(module, name, _quantized_linear(child, bnb))
    model.is_loaded_in_4bit = True
    return model


def _quantized_linear(linear: torch.nn.Linear, bnb: Any) -> Any:
    new = bnb.nn.Linear4bit(
        linear.in_features, linear.out_features, bias=False, compute_dtype=torch.float16, compress_statistics=True,
        quant_type="nf4", device="meta",
    )  # fmt: skip
    weight = torch.randn(linear.out_features, linear.in_features, dtype=torch.float16) * 0.02
    new.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
    return new.to("cuda")
