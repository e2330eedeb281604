"""One message of each type."""

from unit.protocol.messages import PROJECT

from dg_sqlmesh_component.capabilities.project_tests.messages import TestRequest, TestsFinished

MESSAGES = (TestRequest(PROJECT), TestsFinished(2, 1, ("The unit test a fails",), 3, ("t.a: noselectstar: x",), 4))
