"""The whole line in a few minutes, with nothing but a CPU: train on the example shop, see the recall, ask."""

from pathlib import Path

from rich.console import Console

from hoidap.run import Run
from hoidap.training.job import train

# In the wheel the example lies among the package's assets, in a checkout where a reader looks for it.
_PLACES = (
    Path(__file__).parent / "assets" / "cua-hang.csv",
    Path(__file__).parent.parent / "examples" / "cua-hang.csv",
)
QUESTIONS = (  # asked where there is no terminal, as one conversation
    "Ngày thường tiệm mở cửa từ mấy giờ đến mấy giờ?",
    "Phí giao hàng nội thành TP.HCM là bao nhiêu?",
    "Ở tiệm có thể thanh toán bằng những cách nào?",
)


def example() -> Path:
    """Return the example shop's file."""
    return next(place for place in _PLACES if place.is_file())


def demo(out: Path, console: Console) -> Run:
    """Train on the example; an earlier demo in ``out`` is taken as it is, or gone on with where it was cut off."""
    return train(example(), out=out, resume=True, console=console)
