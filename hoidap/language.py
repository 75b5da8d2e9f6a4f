"""What people read comes in two languages, Vietnamese first."""

from dataclasses import dataclass
from typing import Literal

Language = Literal["vi", "en"]


@dataclass(frozen=True)
class Both:
    """A text in both languages."""

    vi: str
    en: str

    def of(self, language: Language) -> str:
        """Return the text in one language."""
        return self.vi if language == "vi" else self.en
