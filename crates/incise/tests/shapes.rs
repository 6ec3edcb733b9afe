//! The functions that the other tests probe do what their checks say, unprobed.

mod support;

use support::shapes;

#[test]
fn every_shape_does_what_its_check_says() {
    for shape in shapes::own().into_iter().chain(shapes::library()) {
        for n in (0..2000).chain((0..64).map(|bit| 1u64 << bit)).chain([u64::MAX]) {
            (shape.check)(n);
        }
    }
}
