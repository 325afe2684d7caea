//! A network namespace for each node, on a bridge in the program's own, and what is wrong between them.
//!
//! Cuts and losses are iptables rules on what a node receives, so a cut has a direction. The program itself, and with it the
//! clients, reaches every node always: what clients see is what the nodes make of it. Everything lives in the namespaces that
//! [`super::sandbox`] made, and ends with them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::HarnessFailed;

/// The program's own address on the bridge, in a network that only this run sees.
const OWN: &str = "10.99.0.254/24";

/// The nodes' namespaces.
pub struct Network {
    nodes: usize,
    /// What the second does not receive from the first.
    cuts: BTreeSet<(usize, usize)>,
    /// Percent of what a node receives that is lost.
    losses: BTreeMap<usize, u8>,
}

/// Runs a command to its end.
pub fn command(line: &str) -> Result<()> {
    run(line).context(HarnessFailed)
}

fn run(line: &str) -> Result<()> {
    let mut words = line.split(' ');
    let output = Command::new(words.next().context("a program")?).args(words).stdin(Stdio::null()).output();
    let output = output.with_context(|| line.to_owned())?;
    ensure!(output.status.success(), "{line}: {} {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// The address of a node.
pub fn address(node: usize) -> String {
    format!("10.99.0.{}", node + 1)
}

/// What runs a program in a node's namespace.
pub fn launcher(node: usize) -> Vec<OsString> {
    vec!["nsenter".into(), format!("--net=/run/netns/node-{node}").into(), "--".into()]
}

impl Network {
    /// A bridge with so many nodes, all of which reach each other.
    pub fn create(nodes: usize) -> Result<Self> {
        // `ip netns` keeps its names here, and the machine's own are none of our business.
        command("mount -t tmpfs chaos-run /run")?;
        command("ip link set lo up")?;
        command("ip link add nodes type bridge")?;
        command(&format!("ip addr add {OWN} dev nodes"))?;
        command("ip link set nodes up")?;
        for node in 0..nodes {
            command(&format!("ip netns add node-{node}"))?;
            command(&format!("ip link add node-{node} type veth peer name eth0 netns node-{node}"))?;
            command(&format!("ip link set node-{node} master nodes up"))?;
            command(&format!("ip -n node-{node} addr add {}/24 dev eth0", address(node)))?;
            command(&format!("ip -n node-{node} link set eth0 up"))?;
            command(&format!("ip -n node-{node} link set lo up"))?;
        }
        Ok(Self { nodes, cuts: BTreeSet::new(), losses: BTreeMap::new() })
    }

    /// Does everything once that is done later: an error says what this machine lacks.
    pub fn try_out() -> Result<()> {
        let mut network = Self::create(2)?;
        network.cut(&[(0, 1)])?;
        network.lose(1, 20)?;
        network.heal()
    }

    /// `to` receives nothing from `from`.
    pub fn cut(&mut self, pairs: &[(usize, usize)]) -> Result<()> {
        self.cuts.extend(pairs);
        self.apply(pairs.iter().map(|(_, to)| *to))
    }

    /// It does again.
    pub fn mend(&mut self, pairs: &[(usize, usize)]) -> Result<()> {
        self.cuts.retain(|pair| !pairs.contains(pair));
        self.apply(pairs.iter().map(|(_, to)| *to))
    }

    /// A node loses so much of what it receives.
    pub fn lose(&mut self, node: usize, percent: u8) -> Result<()> {
        self.losses.insert(node, percent);
        self.apply([node].into_iter())
    }

    /// It loses nothing.
    pub fn keep(&mut self, node: usize) -> Result<()> {
        self.losses.remove(&node);
        self.apply([node].into_iter())
    }

    /// Nothing is wrong.
    pub fn heal(&mut self) -> Result<()> {
        self.cuts.clear();
        self.losses.clear();
        self.apply(0..self.nodes)
    }

    /// All rules of some nodes, each node's at once.
    fn apply(&self, nodes: impl Iterator<Item = usize>) -> Result<()> {
        for node in nodes.collect::<BTreeSet<_>>() {
            let mut rules = String::from("*filter\n:INPUT ACCEPT [0:0]\n");
            for (from, _) in self.cuts.iter().filter(|(_, to)| *to == node) {
                writeln!(rules, "-A INPUT -s {} -j DROP", address(*from))?;
            }
            if let Some(percent) = self.losses.get(&node) {
                writeln!(rules, "-A INPUT -m statistic --mode random --probability 0.{percent:02} -j DROP")?;
            }
            rules.push_str("COMMIT\n");
            restore(node, &rules).context(HarnessFailed)?;
        }
        Ok(())
    }
}

/// Gives a node these rules in place of those that it has.
fn restore(node: usize, rules: &str) -> Result<()> {
    let words = launcher(node);
    let mut restore = Command::new(&words[0]);
    restore.args(&words[1..]).arg("iptables-restore").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut restore = restore.spawn().context("iptables-restore")?;
    let written = restore.stdin.take().context("its input")?.write_all(rules.as_bytes());
    // One that ended before it read everything says why, and that is worth more than a broken pipe.
    let output = restore.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "iptables-restore: {} {}\n{rules}", output.status, said.trim());
    written.context("iptables-restore")
}
