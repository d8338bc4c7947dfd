"""Where jobs are done: in this process, or in several."""
