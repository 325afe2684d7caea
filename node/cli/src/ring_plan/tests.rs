//! The plan of a small ring as it is printed, and what is refused before anything is planned.

use super::*;
use dynamo_core::id::{ClusterId, Epoch};
use dynamo_core::rebalance::{first_ring, first_ring_with};
use dynamo_core::ring::bucket_replication::BucketReplication;
use serde_json::json;

const ZONES: [&str; 3] = ["zone-a", "zone-b", "zone-c"];

fn node(id: u8) -> NodeId {
    NodeId([id; 16])
}

/// Six members in three zones, 64 partitions.
fn ring() -> Ring {
    let member = |id: u8| Member { zone: ZONES[usize::from(id) % 3].to_owned(), weight: 1 };
    let members: Members = (1..=6).map(|id| (node(id), member(id))).collect();
    first_ring(ClusterId([9; 16]), 6, 3, &members).unwrap()
}

/// Every source has 10 objects of 100 KiB in each partition; those in `silent` do not say so.
fn with_sizes(mut outlook: Outlook, silent: &[NodeId]) -> Outlook {
    for (source, partitions) in outlook.sources() {
        if silent.contains(&source) {
            outlook.sizes.unknown.insert(source, "cannot connect: connection refused".to_owned());
            continue;
        }
        let digest = PartitionDigest { root: dynamo_core::version::Digest([1; 16]), objects: 10 };
        let digests = partitions.into_iter().map(|partition| (partition, digest)).collect();
        outlook.sizes.known.extend(of_copies(source, &digests, 320, 32_000 << 10));
    }
    outlook
}

fn outlook(command: &PlanCommand) -> Result<Outlook, Stop> {
    let zones = BTreeMap::from([(node(7), "zone-b".to_owned()), (node(1), "zone-b".to_owned())]);
    Outlook::of(&ring(), command, &zones)
}

fn add(what: &[&str]) -> PlanCommand {
    PlanCommand { add: what.iter().map(|text| addition(text).unwrap()).collect(), ..PlanCommand::default() }
}

#[test]
fn a_plan_shows_moves_bytes_bound_and_time_and_each_nodes_part() {
    let outlook = with_sizes(outlook(&add(&["3"])).unwrap(), &[]);
    insta::assert_snapshot!(outlook.text(), @r"
    plan from ring epoch 1 of cluster 09090909-0909-0909-0909-090909090909: 6 to 9 members
    moves        63 of 192 replicas (32.8 %), lower bound 63
    certificate  verified: balanced, and no balanced plan moves fewer
    primaries    23 change
    bytes        about 61.5 MiB in 630 objects
                 (each source's objects of the partition, times the mean size of an object on it)
    time         1 s to 21 s, for 20.5 MiB to or from the busiest node
                 at 64.0 MiB a second while clients see no harm, 1.0 MiB while they do
                 (the default cap and floor of the background budget; --bytes-per-second for yours)

    NODE                                  ZONE    WEIGHT  BEFORE  AFTER  AS PRIMARY  IN  OUT  BYTES IN  BYTES OUT
    01010101-0101-0101-0101-010101010101  zone-b       1      32     21           7   0   11       0 B   10.7 MiB
    02020202-0202-0202-0202-020202020202  zone-c       1      32     21           7   0   11       0 B   10.7 MiB
    03030303-0303-0303-0303-030303030303  zone-a       1      32     21           7   0   11       0 B   10.7 MiB
    04040404-0404-0404-0404-040404040404  zone-b       1      32     22           8   0   10       0 B    9.8 MiB
    05050505-0505-0505-0505-050505050505  zone-c       1      32     22           7   0   10       0 B    9.8 MiB
    06060606-0606-0606-0606-060606060606  zone-a       1      32     22           7   0   10       0 B    9.8 MiB
    new-1                                 zone-a       1       0     21           7  21    0  20.5 MiB        0 B
    new-2                                 zone-b       1       0     21           7  21    0  20.5 MiB        0 B
    new-3                                 zone-c       1       0     21           7  21    0  20.5 MiB        0 B

    nothing was changed
    ");
    let document = outlook.document();
    assert_eq!(document["moves"], json!(63));
    assert_eq!(document["lower_bound"], json!(63));
    assert_eq!(document["certificate_verified"], json!(true));
    assert_eq!(document["bytes"], json!(63 * 1_024_000));
    assert_eq!(document["fills"].as_array().unwrap().len(), 63);
    assert_eq!(document["nodes"].as_array().unwrap().len(), 9);
}

/// Its layer has replicas of its own to fill, and no placement of its own to change.
#[test]
fn a_bucket_with_an_n_of_its_own_adds_to_what_is_filled_and_not_to_the_moves() {
    let buckets = BucketReplication::new([("cart".into(), 2)], 3).unwrap();
    let ring = first_ring_with(ring().cluster, 6, 3, buckets, &ring().members).unwrap();
    let outlook = Outlook::of(&ring, &add(&["3"]), &BTreeMap::new()).unwrap();
    let document = outlook.document();
    let (moves, fills) = (document["moves"].as_u64().unwrap(), document["fills"].as_array().unwrap().len() as u64);
    assert!(fills > moves, "{fills} {moves}");
    assert!(outlook.text().contains(&format!("moves        {moves} of 192 replicas")), "{}", outlook.text());
}

#[test]
fn a_source_that_does_not_say_counts_with_the_mean_and_nothing_is_made_up_without_any() {
    let command = PlanCommand { remove: vec!["0101".to_owned()], ..PlanCommand::default() };
    let some =
        with_sizes(outlook(&PlanCommand { remove: vec!["01".to_owned(), "02".to_owned()], ..add(&["2"]) }).unwrap(), &[node(1)]);
    let text = some.text();
    assert!(text.contains("with the mean for 32 replicas whose source does not say"), "{text}");
    assert_eq!(some.document()["bytes"], json!(64 * 1_024_000));
    let none = with_sizes(outlook(&command).unwrap(), &(1..=6).map(node).collect::<Vec<_>>());
    assert!(none.text().contains("bytes        not known: no source says what it holds"), "{}", none.text());
    assert_eq!(none.document()["bytes"], json!(null));
}

#[test]
fn weights_leaving_members_and_nodes_that_stand_by_are_planned_too() {
    let heavier = PlanCommand { weight: vec![("02".to_owned(), 3)], ..PlanCommand::default() };
    let document = outlook(&heavier).unwrap().document();
    assert_eq!(document["moves"], json!(16), "the other member of its zone gives it half of its half");
    let replaced = PlanCommand { remove: vec!["01".to_owned()], ..add(&[&node(7).to_string()]) };
    let document = outlook(&replaced).unwrap().document();
    assert_eq!(document["moves"], json!(32), "what the one held, and no more");
    let to_the_new_one =
        |fill: &serde_json::Value| fill["to"] == json!(node(7).to_string()) && fill["from"] == json!([node(1).to_string()]);
    assert!(document["fills"].as_array().unwrap().iter().all(to_the_new_one));
    let none = outlook(&PlanCommand::default()).unwrap().document();
    assert_eq!((&none["moves"], &none["bytes"]), (&json!(0), &json!(0)));
}

#[test]
fn a_change_under_way_is_where_the_plan_begins() {
    let members = ring().members;
    let command = add(&["zone=zone-a", "zone=zone-b", "zone=zone-c"]);
    let outlook = outlook(&command).unwrap();
    let moving = ring().successor(|next| {
        next.members.clone_from(&outlook.after);
        next.placements.clone_from(&outlook.placements);
    });
    let again = Outlook::of(&moving, &PlanCommand::default(), &BTreeMap::new()).unwrap();
    assert_eq!(again.document()["moves"], json!(0), "what is under way is enough");
    assert!(again.text().contains("partitions are on the move"), "{}", again.text());
    assert_eq!(moving.epoch, Epoch(2));
    let back = PlanCommand { remove: outlook.supposed.keys().map(ToString::to_string).collect(), ..PlanCommand::default() };
    let back = Outlook::of(&moving, &back, &BTreeMap::new()).unwrap();
    assert_eq!((back.document()["moves"].clone(), &back.after), (json!(63), &members));
}

#[test]
fn what_cannot_be_planned_is_refused_with_the_option_and_the_fix() {
    let remove = |ids: &[&str]| PlanCommand { remove: ids.iter().map(|id| (*id).to_owned()).collect(), ..PlanCommand::default() };
    let cases = [
        (remove(&["99"]), "--remove 99: no member's id begins so"),
        (remove(&["0"]), "--remove 0: 6 members' ids begin so; give more digits"),
        (remove(&["01", "0101"]), "--remove 0101: was given twice"),
        (remove(&["01", "02", "03", "04"]), "2 members of weight above 0 cannot hold 3 replicas"),
        (PlanCommand { weight: vec![("01".to_owned(), 2)], ..remove(&["01"]) }, "--weight 01: is removed as well"),
        (add(&[&node(1).to_string()]), "is a member already"),
        (add(&[&node(8).to_string()]), "does not answer, so its zone is not known"),
    ];
    for (command, reason) in cases {
        let refused = outlook(&command).err().map(|stop| stop.to_string()).unwrap_or_default();
        assert!(refused.contains(reason), "{reason}: {refused}");
    }
    for (text, reason) in [
        ("many", "give a number of nodes"),
        ("0", "from 1 to 1000"),
        ("weight=2", "zone: is missing"),
        ("zone=a,weight=0", "is not a number above 0"),
        ("zone=a,size=1", "neither zone=NAME nor weight=NUMBER"),
    ] {
        assert!(addition(text).unwrap_err().contains(reason), "{text}: {:?}", addition(text));
    }
    assert!(weight("0101").is_err() && weight("0101=many").is_err());
    assert_eq!(weight("0101=0"), Ok(("0101".to_owned(), 0)));
}
