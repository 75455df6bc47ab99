"""Curation of coding problems (paper, Appendix C): what a coding problem passes before it is trained on.

statement_rules   can the statement be answered by a program that reads and prints?
suite_rules       are its tests usable, enough and not too large?
solutions         do known right solutions pass, by which checker? which wrong ones pass too?
new_tests         a model writes generators; an input is kept that right solutions agree on and a wrong one fails
pipeline          all of that for one problem, and the filter for many
"""
