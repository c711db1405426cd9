"""python -m unittest"""

import unittest

import judge
from luthier import judged


class Links(unittest.TestCase):
    def test_counts_links(self):
        text = "see https://a and http://b"
        self.assertEqual(judged(judge, {}, text), ("keep", {"links": 2}))
        self.assertEqual(judged(judge, {"max": 1}, text), ("drop: too-many-links", {"links": 2}))
        self.assertEqual(judged(judge, {}, "none"), ("keep", {"links": 0}))


if __name__ == "__main__":
    unittest.main()
