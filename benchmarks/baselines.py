"""What to compare training with: the usual recipe, and the same libraries used as an expert would.

transformers' MPT in NF4 by bitsandbytes (double quantisation), PEFT's LoRA on the four linear layers, in PhoGPT's shapes
with random weights. transformers' MPT has no biases, so both compute a little less than PhoGPT.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from hoidap.model.config import MPTConfig
from hoidap.prompt import Rendered

_TARGETS = ["Wqkv", "out_proj", "up_proj", "down_proj"]
_TOKENIZER = Path(__file__).parent.parent / "hoidap" / "assets" / "mini" / "tokenizer.json"


def usual_recipe(
    config: MPTConfig, documents: list[Rendered], rank: int, alpha: int, device: str = "cuda"
) -> dict[str, Any]:
    """Train on ``documents`` as the community's PhoGPT notebook does; the first four steps warm up and are not timed.

    TRL's SFTTrainer, batch 1, no packing, float16, paged_adamw_32bit, dropout 0.05. It makes the adapter bfloat16, whose
    gradients float16's scaler cannot take; it is put back to float32.
    """
    import pyarrow as pa
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    is_gpu = device == "cuda"
    model = _mpt(config, torch.float16, device)
    model = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.05, target_modules=_TARGETS, task_type="CAUSAL_LM")
    )
    rows = [
        {"input_ids": d.token_ids, "labels": [t if c else -100 for t, c in zip(d.token_ids, d.in_answer, strict=True)]}
        for d in documents
    ]
    dataset = Dataset(pa.Table.from_pylist(rows), fingerprint="items")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(_TOKENIZER), pad_token="<pad>", eos_token="</s>")  # noqa: S106
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder, per_device_train_batch_size=1, max_steps=len(documents), learning_rate=1e-4, fp16=is_gpu,
            bf16=False, optim="paged_adamw_32bit" if is_gpu else "adamw_torch", max_length=1024, packing=False,
            gradient_checkpointing=False, logging_steps=10_000, save_strategy="no", report_to=[],
            dataset_kwargs={"skip_prepare_dataset": True}, use_cpu=not is_gpu, max_grad_norm=1.0,
        )  # fmt: skip
        trainer = SFTTrainer(
            model=model, args=settings, train_dataset=dataset, processing_class=tokenizer,
            callbacks=[clock := _clock(device)],
        )  # fmt: skip
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        trainer.train()
    return {
        "what": "transformers MPT + bitsandbytes NF4 + PEFT + TRL SFTTrainer, float16, batch 1, paged_adamw_32bit",
        "items_per_s": (len(documents) - _WARM) / (clock.ended - clock.started),
        "items": len(documents) - _WARM,
    }


def tuned_stack(
    config: MPTConfig, documents: list[Rendered], rank: int, alpha: int, sizes: tuple[int, ...] = (24, 32, 48)
) -> dict[str, Any]:
    """Train on batches of documents of like length, activations recomputed, in bfloat16; the best of the batch sizes.

    No trainer around it. Of the batches, sorted by length, eight spread evenly are timed.
    """
    from peft import LoraConfig, get_peft_model

    model = _mpt(config, torch.bfloat16, "cuda")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=_TARGETS))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    ordered = sorted(documents, key=lambda d: len(d.token_ids))
    found = {}
    for size in sizes:
        batches = [ordered[at : at + size] for at in range(0, len(ordered) - size + 1, size)]
        chosen = batches[len(batches) // 16 :: max(1, len(batches) // 8)][:8]
        for number, batch in enumerate([chosen[0], chosen[-1], *chosen]):
            if number == 2:
                torch.cuda.synchronize()
                started = time.perf_counter()
            _step(model, batch, trained, optimizer)
        torch.cuda.synchronize()
        found[size] = len(chosen) * size / (time.perf_counter() - started)
    best = max(found, key=lambda size: found[size])
    return {
        "what": "transformers MPT + bitsandbytes NF4 + PEFT, bfloat16, batches by length, recomputed, fused AdamW",
        "items_per_s": found[best],
        "batch_items": best,
        "items_per_s_by_batch": {str(size): rate for size, rate in found.items()},
    }


_WARM = 4


def _clock(device: str) -> Any:
    """Return a callback that times a trainer's steps behind the first four."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        started = ended = 0.0

        def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step in (_WARM, state.max_steps):
                if device == "cuda":
                    torch.cuda.synchronize()
                now = time.perf_counter()
                self.started, self.ended = (now, now) if state.global_step == _WARM else (self.started, now)

    return Clock()


def _step(model: Any, batch: list[Rendered], trained: list[Any], optimizer: Any) -> None:
    width = max(len(d.token_ids) for d in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.int64)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for at, document in enumerate(batch):
        length = len(document.token_ids)
        ids[at, :length], mask[at, :length] = torch.tensor(document.token_ids), 1
        labels[at, :length] = torch.where(torch.tensor(document.in_answer), ids[at, :length], -100)
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(input_ids=ids.cuda(), attention_mask=mask.cuda(), labels=labels.cuda()).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _mpt(config: MPTConfig, dtype: torch.dtype, device: str) -> Any:
    """Build transformers' MPT with random weights in NF4, one layer at a time, so that 16 bits of all never exist."""
    import bitsandbytes as bnb
    from transformers import MptConfig, MptForCausalLM

    settings = MptConfig(
        d_model=config.d_model, n_heads=config.n_heads, n_layers=config.n_layers, vocab_size=config.vocab_size,
        max_seq_len=1024, use_cache=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = MptForCausalLM(settings).to(dtype)
    model.transformer.wte.to_empty(device=device)
    model.transformer.wte.weight.data.normal_(0, 0.02)
    model.lm_head.weight = model.transformer.wte.weight
    for module in list(model.modules()):
        if isinstance(module, torch.nn.LayerNorm):
            module.to_empty(device=device)
            module.weight.data.fill_(1.0)
            module.weight.data = module.weight.data.float()
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear) and name != "lm_head":
                setattr(module, name, _quantized(child, bnb, dtype, device))
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.is_loaded_in_4bit = True
    return model


def _quantized(linear: torch.nn.Linear, bnb: Any, dtype: torch.dtype, device: str) -> Any:
    new = bnb.nn.Linear4bit(
        linear.in_features, linear.out_features, bias=False, compute_dtype=dtype, compress_statistics=True,
        quant_type="nf4", device="meta",
    )  # fmt: skip
    weight = torch.randn(linear.out_features, linear.in_features, device=device, dtype=dtype) * 0.02
    new.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
    return new.to(device)


@torch.inference_mode()
def generate(
    config: MPTConfig, adapter_rank: int, adapter_alpha: int, tokens: int = 64, device: str = "cuda"
) -> dict[str, Any]:
    """Make one answer with transformers' ``generate``, greedily, with its cache: NF4 alone, and with PEFT's adapter."""
    from peft import LoraConfig, get_peft_model

    model = _mpt(config, torch.bfloat16, device)
    for module in model.modules():  # no autocast stands between norms in float32 and the rest
        if isinstance(module, torch.nn.LayerNorm):
            module.to(torch.bfloat16)
    model.generation_config.eos_token_id = None
    model.config.use_cache = True
    prompt = torch.randint(4, config.vocab_size, (1, 100), device=device)
    found: dict[str, Any] = {
        "what": "transformers MPT + bitsandbytes NF4, generate, bfloat16, one stream",
        "tokens": tokens,
    }
    found["tokens_per_s"] = _rate(model, prompt, tokens)
    model = get_peft_model(
        model, LoraConfig(r=adapter_rank, lora_alpha=adapter_alpha, target_modules=_TARGETS, task_type="CAUSAL_LM")
    )
    found["tokens_per_s_with_adapter"] = _rate(model, prompt, tokens)
    return found


def _rate(model: Any, prompt: torch.Tensor, tokens: int) -> float:
    settings = {"do_sample": False, "use_cache": True, "pad_token_id": 3, "attention_mask": torch.ones_like(prompt)}
    model.generate(input_ids=prompt, max_new_tokens=4, **settings)
    seconds = []
    for count in (1, tokens + 1):
        _wait(prompt)
        began = time.perf_counter()
        made = model.generate(input_ids=prompt, max_new_tokens=count, **settings)
        _wait(prompt)
        seconds.append(time.perf_counter() - began)
        assert made.shape[1] == prompt.shape[1] + count
    return tokens / (seconds[1] - seconds[0])


def _wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()
