"""hoidap turns a question–answer file into a Vietnamese chatbot that you own."""

__version__ = "0.1.0"
