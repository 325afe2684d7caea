//! Scenarios: what happens to a `DynamoCluster`, as text that two stages play. `tests/world` plays them on a model of Kubernetes
//! with a crash at every call, `tests/e2e` on a real one; where the two end differently, the model is wrong.
//!
//! A scenario is a file `NAME.scenario` beside this crate: a line a step, `#` begins a comment, and the comments at its head say
//! what it is about. A pod is named by what follows the cluster's name: `pod 1`, or `pod b-1` in zone b.
//!
//! | line | what it does |
//! |---|---|
//! | `create replicas=3 zones=a,b,c partitions=16 when-scaled=Delete image=missing factor=3 bucket=logs,n=2,w=1` | creates the cluster; all but `replicas` may be left out, `bucket` may stand there more than once, and no registry has the image `missing` |
//! | `recreate replicas=3` | deletes the cluster, whose volumes stay, and creates another one under its name; what was acknowledged is the former one's |
//! | `write 60` | writes 60 keys, each over what it reads; all must be acknowledged |
//! | `verify` | every write that was acknowledged is read |
//! | `scale 5` | sets spec.replicas |
//! | `refuse 2` | sets spec.replicas to what the API server must refuse, with words that name the field |
//! | `image next` | asks for another image of the same node; each `image` line names another |
//! | `bucket logs r=1 w=3` | gives the bucket these settings and no others, whether or not it had some; its `n` stays what it was created with |
//! | `drop bucket logs` | takes its settings out of the spec |
//! | `pause`, `resume` | sets spec.rebalancing.paused to true, to false |
//! | `kill pod 1` | its process dies at once and comes back on its volume |
//! | `hold pod 1` | it dies, if it is there, and none is run in its place before `release pod 1`; its volume stays |
//! | `release pod 1` | it runs again |
//! | `lose volume 1` | its claim and its data are gone for ever, and its pod with them |
//! | `restart operator` | the operator's process dies and comes back |
//! | `wait settled` | until condition Ready is True for this very spec, which makes the ring that is asked for the one that is held |
//! | `wait moving` | until partitions move, or everything has settled already: a small cluster may be faster than the look |
//! | `wait pods 4` | until so many pods exist |
//! | `wait stuck 3` | until so many pods' containers do not start |
//! | `wait ScaleInBlocked=True` | until the condition has this status |
//! | `expect volumes 5` | so many claims exist |
//! | `expect members 3` | the ring lists so many nodes |

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

/// A scenario, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scenario {
    /// The file's name without its ending: words that say what happens.
    pub name: &'static str,
    /// The comments at its head, in one line.
    pub about: String,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Creates the cluster.
    Create(Create),
    /// Deletes the cluster and creates another one of the same name.
    Recreate(Create),
    /// Writes so many keys.
    Write(u32),
    /// Reads every acknowledged write.
    Verify,
    /// Sets spec.replicas.
    Scale(u32),
    /// Sets spec.replicas to a number that is refused.
    Refuse(u32),
    /// Asks for the image of this name.
    Image(String),
    /// Gives a bucket these settings.
    Bucket(Bucket),
    /// Takes the settings of the bucket of this name out of the spec.
    DropBucket(String),
    /// Nothing more is to move, or it is to go on.
    Pause(bool),
    /// The pod's process dies and comes back.
    Kill(String),
    /// The pod dies and does not run.
    Hold(String),
    /// The pod runs again.
    Release(String),
    /// The pod's volume is gone, with its claim and the pod.
    LoseVolume(String),
    /// The operator's process dies and comes back.
    RestartOperator,
    /// Waits.
    Wait(Until),
    /// So many claims exist.
    ExpectVolumes(u32),
    /// The ring lists so many nodes.
    ExpectMembers(u32),
}

/// What a cluster is created with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Create {
    /// spec.replicas.
    pub replicas: u32,
    /// spec.zones, by name; none for a cluster without.
    pub zones: Vec<String>,
    /// spec.partitions.
    pub partitions: u32,
    /// spec.storage.retention.whenScaled is Delete, not Retain.
    pub deletes_volumes: bool,
    /// The name of spec.image.
    pub image: String,
    /// spec.replication.factor.
    pub factor: u32,
    /// spec.buckets.
    pub buckets: Vec<Bucket>,
}

impl Default for Create {
    fn default() -> Self {
        Self {
            replicas: 0,
            zones: Vec::new(),
            partitions: 16,
            deletes_volumes: false,
            image: "first".to_owned(),
            factor: 3,
            buckets: Vec::new(),
        }
    }
}

/// An entry of spec.buckets; what is not said is the cluster's.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// Its factor.
    pub n: Option<u32>,
    /// Replicas that must answer a get.
    pub r: Option<u32>,
    /// Replicas that must acknowledge a put.
    pub w: Option<u32>,
}

impl Bucket {
    /// Puts it in the place of the one of its name, whose N stays, or behind the others.
    pub fn set(self, buckets: &mut Vec<Self>) {
        match buckets.iter_mut().find(|other| other.name == self.name) {
            Some(other) => *other = Self { n: other.n, ..self },
            None => buckets.push(self),
        }
    }

    /// The fields that it has, by their names in spec.buckets.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, u32)> {
        [("factor", self.n), ("r", self.r), ("w", self.w)].into_iter().filter_map(|(field, value)| Some((field, value?)))
    }
}

/// What is waited for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Until {
    /// Ready for this very spec.
    Settled,
    /// Partitions move, or it has settled.
    Moving,
    /// So many pods exist.
    Pods(u32),
    /// The containers of so many pods do not start.
    Stuck(u32),
    /// A condition has a status.
    Condition {
        /// Its type.
        kind: String,
        /// True, False or Unknown.
        status: String,
    },
}

/// A line that is no step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError {
    /// The scenario.
    pub scenario: &'static str,
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.scenario:{}: {}", self.scenario, self.line, self.reason)
    }
}

impl std::error::Error for ParseError {}

macro_rules! scenarios {
    ($($name:literal)*) => {
        /// The files, in the order in which they are played.
        const TEXTS: &[(&str, &str)] = &[$(($name, include_str!(concat!("../", $name, ".scenario")))),*];
        /// How each ends.
        const ENDS: &[(&str, &str)] = &[$(($name, include_str!(concat!("../", $name, ".end")))),*];
    };
}

scenarios! {
    "grow_and_shrink"
    "flapping_replicas"
    "a_shrink_is_taken_back"
    "a_blocked_shrink_does_not_block_an_image"
    "a_volume_is_lost"
    "a_volume_is_lost_in_a_shrink"
    "three_zones"
    "a_new_image_while_it_grows"
    "too_few_replicas_are_refused"
    "volumes_follow_a_shrink"
    "a_paused_rebalance_waits_and_follows_the_last_word"
    "a_growth_is_taken_back"
    "a_growth_that_never_ran_is_taken_back"
    "a_newcomer_dies_in_a_growth_that_is_taken_back"
    "a_newcomer_is_lost_in_a_growth_that_is_taken_back"
    "volumes_of_a_former_cluster_are_not_served"
    "the_first_image_does_not_exist"
    "buckets_come_change_and_go"
}

/// How the scenario `name` ends when nothing goes wrong, in lines that both stages can write: file `NAME.end`.
pub fn end_of(name: &str) -> &'static str {
    ENDS.iter().find(|(ended, _)| *ended == name).map_or("", |(_, end)| end)
}

/// All scenarios.
pub fn all() -> Result<Vec<Scenario>, ParseError> {
    TEXTS.iter().map(|(name, text)| parse(name, text)).collect()
}

/// Reads the text of a scenario.
pub fn parse(name: &'static str, text: &str) -> Result<Scenario, ParseError> {
    let head = text.lines().map_while(|line| line.strip_prefix('#'));
    let about = head.map(str::trim).collect::<Vec<_>>().join(" ");
    let mut steps = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            steps.push(step(line).map_err(|reason| ParseError { scenario: name, line: number, reason })?);
        }
    }
    Ok(Scenario { name, about, steps })
}

fn step(line: &str) -> Result<Step, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Ok(match words[..] {
        ["create", ref options @ ..] => Step::Create(create(options)?),
        ["recreate", ref options @ ..] => Step::Recreate(create(options)?),
        ["write", keys] => Step::Write(number(keys)?),
        ["verify"] => Step::Verify,
        ["scale", replicas] => Step::Scale(number(replicas)?),
        ["refuse", replicas] => Step::Refuse(number(replicas)?),
        ["image", image] => Step::Image(image.to_owned()),
        ["bucket", name, ref settings @ ..] => Step::Bucket(bucket(name, settings)?),
        ["drop", "bucket", name] => Step::DropBucket(name.to_owned()),
        ["pause"] => Step::Pause(true),
        ["resume"] => Step::Pause(false),
        ["kill", "pod", pod] => Step::Kill(pod.to_owned()),
        ["hold", "pod", pod] => Step::Hold(pod.to_owned()),
        ["release", "pod", pod] => Step::Release(pod.to_owned()),
        ["lose", "volume", pod] => Step::LoseVolume(pod.to_owned()),
        ["restart", "operator"] => Step::RestartOperator,
        ["wait", "settled"] => Step::Wait(Until::Settled),
        ["wait", "moving"] => Step::Wait(Until::Moving),
        ["wait", "pods", pods] => Step::Wait(Until::Pods(number(pods)?)),
        ["wait", "stuck", pods] => Step::Wait(Until::Stuck(number(pods)?)),
        ["wait", condition] => Step::Wait(until(condition)?),
        ["expect", "volumes", volumes] => Step::ExpectVolumes(number(volumes)?),
        ["expect", "members", members] => Step::ExpectMembers(number(members)?),
        _ => return Err(format!("{line:?} is no step; the head of the crate lists them")),
    })
}

fn create(options: &[&str]) -> Result<Create, String> {
    let mut created = Create::default();
    for option in options {
        match option.split_once('=') {
            Some(("replicas", replicas)) => created.replicas = number(replicas)?,
            Some(("zones", zones)) => created.zones = zones.split(',').map(str::to_owned).collect(),
            Some(("partitions", partitions)) => created.partitions = number(partitions)?,
            Some(("image", image)) => created.image = image.to_owned(),
            Some(("factor", factor)) => created.factor = number(factor)?,
            Some(("bucket", words)) => {
                let words: Vec<&str> = words.split(',').collect();
                created.buckets.push(bucket(words[0], &words[1..])?);
            }
            Some(("when-scaled", policy @ ("Delete" | "Retain"))) => created.deletes_volumes = policy == "Delete",
            _ => {
                return Err(format!(
                    "{option:?}: create takes replicas=, zones=, partitions=, image=, factor=, bucket=, when-scaled=Delete or Retain"
                ));
            }
        }
    }
    if created.replicas == 0 { Err("create needs replicas=".to_owned()) } else { Ok(created) }
}

fn bucket(name: &str, settings: &[&str]) -> Result<Bucket, String> {
    let mut bucket = Bucket { name: name.to_owned(), ..Bucket::default() };
    for setting in settings {
        match setting.split_once('=') {
            Some(("n", n)) => bucket.n = Some(number(n)?),
            Some(("r", r)) => bucket.r = Some(number(r)?),
            Some(("w", w)) => bucket.w = Some(number(w)?),
            _ => return Err(format!("{setting:?}: a bucket takes n=, r=, w=")),
        }
    }
    Ok(bucket)
}

fn until(condition: &str) -> Result<Until, String> {
    match condition.split_once('=') {
        Some((kind, status @ ("True" | "False" | "Unknown"))) => {
            Ok(Until::Condition { kind: kind.to_owned(), status: status.to_owned() })
        }
        _ => Err(format!("{condition:?}: wait for settled, moving, pods N, stuck N, or a condition like Ready=True")),
    }
}

fn number<T: FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word:?} is no number"))
}
