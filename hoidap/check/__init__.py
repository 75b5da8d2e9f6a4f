"""What is wrong with a file of questions and answers, told before anything is trained on it, and mended on request."""
