"""Small programs that stand for systems around Lockgate: to be read, run and copied."""
