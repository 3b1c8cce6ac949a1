import numpy as np

from amdjax.report.class_scores import accuracy_csv, confusion_csv, score_classes

LABELS = np.array([0, 0, 0, 0, 1, 1, 3])  # class 2 has no test images
FIRST = np.array([0, 0, 0, 1, 1, 1, 3])
SECOND = np.array([0, 0, 2, 1, 1, 0, 0])
NAN = np.nan


def test_score_classes_gives_accuracy_of_each_seed_and_mean_confusion():
    scores = score_classes([FIRST, SECOND], LABELS, 4)
    np.testing.assert_array_equal(scores.accuracy, [[0.75, 1.0, NAN, 1.0], [0.5, 0.5, NAN, 0.0]])
    expected = [
        [5 / 8, 2 / 8, 1 / 8, 0.0],
        [1 / 4, 3 / 4, 0.0, 0.0],
        [NAN, NAN, NAN, NAN],
        [1 / 2, 0.0, 0.0, 1 / 2],
    ]
    np.testing.assert_array_equal(scores.confusion, expected)
    np.testing.assert_allclose(scores.accuracy.mean(0), scores.confusion.diagonal())


def test_csv_leaves_out_classes_without_images_and_pairs_without_errors():
    names = ("cat", "dog, small", "bird", "ship")
    scores = {"kd": score_classes([FIRST, SECOND], LABELS, 4)}
    assert accuracy_csv(scores, LABELS, names).splitlines() == [
        "method,label,class,images,accuracy,std",
        "kd,0,cat,4,0.625,0.176777",
        'kd,1,"dog, small",2,0.75,0.353553',
        "kd,3,ship,1,0.5,0.707107",
    ]
    assert confusion_csv(scores, names).splitlines() == [
        "method,label,class,predicted_label,predicted_class,fraction",
        "kd,0,cat,0,cat,0.625",
        'kd,0,cat,1,"dog, small",0.25',
        "kd,0,cat,2,bird,0.125",
        'kd,1,"dog, small",0,cat,0.25',
        'kd,1,"dog, small",1,"dog, small",0.75',
        "kd,3,ship,0,cat,0.5",
        "kd,3,ship,3,ship,0.5",
    ]
    one_seed = {"kd": score_classes([FIRST], LABELS, 4)}
    assert accuracy_csv(one_seed, LABELS, names).splitlines()[1] == "kd,0,cat,4,0.75,"
