"""A very small bot that learns a few answers in seconds: what tests of training, asking and chatting share."""

from collections.abc import Sequence
from pathlib import Path

import torch

from hoidap import base as base_module
from hoidap.base import Base
from hoidap.data.items import Item
from hoidap.model.checkpoint import assemble, random_tensors, save_checkpoint
from hoidap.model.config import MPTConfig
from hoidap.recipe import Adapter, Optimizer, Recipe, Schedule, Wordings

TOKENIZER = Path(base_module.__file__).parent / "assets" / "mini" / "tokenizer.json"
CONFIG = MPTConfig(d_model=64, n_heads=2, n_layers=2, vocab_size=8192, max_seq_len=256)
ITEMS = [
    Item("Mấy giờ mở cửa?", "Từ 8h30 đến 20h30 ạ.", ("may gio mo cua vay",)),
    Item("Phí giao hàng bao nhiêu?", "Nội thành 25.000đ, từ 500.000đ được miễn phí.", ("ship nhiu",)),
    Item("Có nhận thẻ không?", "Dạ có, Visa và Mastercard.", ()),
    Item("Cửa hàng ở đâu?", "38/12 Xuân Thủy, phường An Khánh.", ()),
    Item("Đổi trả trong bao lâu?", "Trong 7 ngày, còn nguyên tem ạ.", ()),
    Item("Bảo hành thế nào?", "Đồ gỗ 12 tháng, gốm 6 tháng.", ()),
]
_AS_WRITTEN = Wordings(variants=0, held_out_wordings=1.0)  # fewer epochs learn questions that always read the same
FULL = Recipe(
    method="full",
    quantize="none",
    wordings=_AS_WRITTEN,
    optimizer=Optimizer(learning_rate=3e-3),
    schedule=Schedule(max_epochs=150, batch_tokens=256, recall_every=10, followup_share=0.6, patience=10),
)
LORA = Recipe(
    wordings=_AS_WRITTEN,
    adapter=Adapter(rank=16, alpha=32),
    optimizer=Optimizer(learning_rate=2e-2),
    schedule=Schedule(max_epochs=120, batch_tokens=256, recall_every=10, followup_share=0.0),
)


def make_base(folder: Path, config: MPTConfig = CONFIG) -> Base:
    """Write a model folder of random weights, as a pretrained base would be."""
    folder.mkdir()
    tensors = random_tensors(config, torch.device("cpu"), torch.float32, 0)
    save_checkpoint(assemble(config, tensors, quantize="none", device=torch.device("cpu"), dtype=torch.float32), folder)
    (folder / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    return base_module.find_base(str(folder))


def write_csv(path: Path, items: Sequence[Item]) -> Path:
    """Write items as a shop would."""
    rows = ["câu hỏi,trả lời,cách hỏi khác"]
    rows += [",".join(f'"{cell}"' for cell in (i.question, i.answer, " | ".join(i.wordings))) for i in items]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path
