"""Where things are in a store."""

from shoal.store.layout import RESERVED
from shoal.study.check import STORE_FOLDERS


def test_no_step_may_be_named_as_a_folder_that_the_store_keeps_for_itself() -> None:
    assert set(STORE_FOLDERS) == RESERVED
