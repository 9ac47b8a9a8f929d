"""LinkChecker as it is, but for one thing: run by root, it would become nobody, who cannot read what root has just built."""

from linkcheck.command import linkchecker

linkchecker.drop_privileges = lambda: None
linkchecker.linkchecker()
