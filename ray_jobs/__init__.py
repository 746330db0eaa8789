"""The jobs: one verb a module, run by the command `changenet` or by `ray job submit`."""
