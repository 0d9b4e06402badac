from unittest import mock

functional = mock.MagicMock()


class Module(mock.MagicMock):
    def _get_child_mock(self, /, **options):
        return mock.MagicMock(**options)


BatchNorm1d = LayerNorm = Module


def __getattr__(name):
    return mock.MagicMock()
