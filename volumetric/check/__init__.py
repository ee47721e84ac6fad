"""The data doctor: is a case, or a set of them, what it claims to be?"""

from volumetric.check.case import Checked, check_case, check_path, read_case

__all__ = ["Checked", "check_case", "check_path", "read_case"]
