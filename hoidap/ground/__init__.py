"""Which item a question asks for and an answer comes from; when to give it."""
