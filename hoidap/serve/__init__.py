"""One machine that serves bots: an API as OpenAI's, a page for visitors, one for the owner."""
