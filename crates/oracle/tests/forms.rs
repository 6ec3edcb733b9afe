//! The project's relocator, over every encoding form.

use incise_oracle::{Incise, Movable, Options, Relocator, Report, run};

/// What a run with this seed covered when it was last measured; less means that coverage was lost.
const SEED: u64 = 1;
const LISTED: usize = 4690;
const RUN_EQUAL: usize = 4327;
/// With AVX-512 (VBMI2, BITALG, VP2INTERSECT), SHA, VAES, GFNI, SSE4a and without XOP, AMX, KNC.
const COMPLETED: usize = 3558;

fn report(relocator: &dyn Relocator) -> Report {
    let report =
        run(relocator, &Options { seed: SEED, ..Options::default() }).expect("native runs are possible");
    print!("{report}");
    for finding in report.findings.iter().take(20) {
        println!("\n{finding}");
    }
    report
}

#[test]
fn every_form_does_the_same_where_it_is_moved_to() {
    let report = report(&Incise);
    assert_eq!(report.findings.len(), 0, "displaced instructions differ from their originals");
    assert_eq!(report.originals_lost, Vec::<String>::new(), "originals that could not be judged");
    assert_eq!(report.not_made, Vec::<String>::new(), "forms without a trial");
    assert_eq!(report.listed, LISTED);
    assert!(report.run_equal >= RUN_EQUAL, "{} forms run, {RUN_EQUAL} once", report.run_equal);
    let refused: usize = report.refused.values().sum();
    let decode_only: usize = report.decode_only.values().sum();
    assert_eq!(report.run_equal + refused + decode_only, report.listed, "a form is in no list");
    for reach in ["near", "far", "far-below", "edge-above", "edge-below"] {
        assert!(report.equal_pairs.get(reach).is_some_and(|&count| count > 10_000), "{reach}");
    }
    if has_the_features_counted() {
        assert!(report.completed >= COMPLETED, "{} forms completed, {COMPLETED} once", report.completed);
    } else {
        println!("skipped: the count of completed forms, for this processor lacks AVX-512, GFNI or SHA");
    }
}

#[test]
fn every_form_does_the_same_where_a_program_is_loaded_elsewhere() {
    let report = report(&Movable);
    assert_eq!(report.findings.len(), 0, "copies depend on where the program is loaded");
    assert_eq!(report.listed, LISTED);
    assert!(report.run_equal >= RUN_EQUAL, "{} forms run, {RUN_EQUAL} once", report.run_equal);
    // All of a copy has to reach its target: of those around the upper edge few do.
    for (reach, least) in [("near", 10_000), ("edge-below", 10_000), ("edge-above", 100)] {
        assert!(report.equal_pairs.get(reach).is_some_and(|&count| count > least), "{reach}");
    }
}

fn has_the_features_counted() -> bool {
    is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("avx512bitalg")
        && is_x86_feature_detected!("avx512vp2intersect")
        && is_x86_feature_detected!("gfni")
        && is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("sse4a")
}

#[test]
fn a_report_as_json_can_be_read_back() {
    let options = Options { filter: "Xadd".to_owned(), ..Options::default() };
    let report = run(&Incise, &options).expect("native runs are possible");
    let text = serde_json::to_string(&report).expect("a report is data");
    let value: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    assert!(value["run_equal"].as_u64() >= Some(4), "{text}");
    assert_eq!(value["findings"].as_array().map(Vec::len), Some(0));
}
