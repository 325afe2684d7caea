//! The files can be read, and a line that is wrong says so.

use super::*;

#[test]
fn every_scenario_can_be_read_says_what_it_is_about_and_proves_its_writes_in_the_end() {
    let scenarios = all().unwrap();
    assert!(scenarios.len() >= 10);
    for scenario in scenarios {
        assert!(!scenario.about.is_empty(), "{} has no comment at its head", scenario.name);
        assert!(matches!(scenario.steps.first(), Some(Step::Create(_))), "{} does not begin with create", scenario.name);
        assert!(scenario.steps.contains(&Step::Verify), "{} verifies nothing", scenario.name);
        let waits = scenario.steps.iter().rposition(|step| *step == Step::Wait(Until::Settled));
        let sets = |step: &Step| matches!(step, Step::Bucket(_) | Step::DropBucket(_) | Step::Image(_) | Step::Pause(_));
        let acts = |step: &Step| sets(step) || matches!(step, Step::Scale(_) | Step::LoseVolume(_));
        let acts = scenario.steps.iter().rposition(acts);
        assert!(waits > acts, "{} ends before it has settled", scenario.name);
    }
}

#[test]
fn every_file_beside_the_crate_is_played() {
    let files = std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> =
        files.filter_map(|file| file.to_string_lossy().strip_suffix(".scenario").map(str::to_owned)).collect();
    let mut played: Vec<String> = TEXTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    names.sort();
    played.sort();
    assert_eq!(names, played);
}

#[test]
fn a_line_becomes_a_step() {
    let text = "# About\n# this.\n\ncreate replicas=4 zones=a,b when-scaled=Delete image=next # so\nkill pod b-0\nwait Ready=True\n\
         recreate replicas=5 factor=5 bucket=a bucket=b,n=2,w=1\nbucket a r=1\ndrop bucket a\n";
    let scenario = parse("sample", text).unwrap();
    assert_eq!(scenario.about, "About this.");
    let zones = vec!["a".into(), "b".into()];
    let created = Create { replicas: 4, zones, deletes_volumes: true, image: "next".into(), ..Create::default() };
    let ready = Until::Condition { kind: "Ready".into(), status: "True".into() };
    let bucket = |name: &str| Bucket { name: name.into(), ..Bucket::default() };
    let buckets = vec![bucket("a"), Bucket { n: Some(2), w: Some(1), ..bucket("b") }];
    let again = Step::Recreate(Create { replicas: 5, factor: 5, buckets, ..Create::default() });
    let set = Step::Bucket(Bucket { r: Some(1), ..bucket("a") });
    let steps = [Step::Create(created), Step::Kill("b-0".into()), Step::Wait(ready), again, set, Step::DropBucket("a".into())];
    assert_eq!(scenario.steps, steps);
}

#[test]
fn a_bucket_that_is_set_again_keeps_its_n_and_nothing_else() {
    let mut buckets = vec![Bucket { name: "a".into(), n: Some(2), r: Some(1), w: None }];
    Bucket { name: "b".into(), ..Bucket::default() }.set(&mut buckets);
    Bucket { name: "a".into(), w: Some(2), ..Bucket::default() }.set(&mut buckets);
    assert_eq!(buckets[0], Bucket { name: "a".into(), n: Some(2), r: None, w: Some(2) });
    assert_eq!(buckets[0].fields().collect::<Vec<_>>(), [("factor", 2), ("w", 2)]);
    assert_eq!(buckets[1].fields().count(), 0);
}

#[test]
fn a_wrong_line_is_named_with_what_is_wrong() {
    let cases = [
        ("scale many", "sample.scenario:2: \"many\" is no number"),
        ("create", "sample.scenario:2: create needs replicas="),
        ("wait Ready", "sample.scenario:2: \"Ready\": wait for settled, moving, pods N, stuck N, or a condition like Ready=True"),
        ("bucket a dw=1", "sample.scenario:2: \"dw=1\": a bucket takes n=, r=, w="),
        ("explode", "sample.scenario:2: \"explode\" is no step; the head of the crate lists them"),
    ];
    for (line, told) in cases {
        assert_eq!(parse("sample", &format!("# head\n{line}\n")).unwrap_err().to_string(), told);
    }
}
