"""The whole line in a few minutes, with nothing but a CPU: train on the example shop, see the recall, ask."""

import shutil
from pathlib import Path

from rich.console import Console

from hoidap.data.read import read_items
from hoidap.errors import RunError
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
    """Train on the example, unless an earlier demo has left a finished run of the same items in ``out``."""
    if out.exists():
        run = Run.open(out)
        try:
            run.weights_folder()
        except RunError:
            shutil.rmtree(out)  # a demo that was cut off
        else:
            if run.items() == read_items(example()):
                console.print(f"{out} is trained already; delete it to train again")
                return run
            msg = f"{out} is another run; choose another --out"
            raise RunError(msg)
    return train(example(), out=out, console=console)
