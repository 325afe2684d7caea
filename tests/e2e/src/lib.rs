//! The product on a real Kubernetes: real charts, a real API server, kubelets, volumes and Services.
//!
//! `make e2e` runs [`scenario`] from `tests/kubernetes.rs`. What it does to the product it does the way a user does: `helm`,
//! `kubectl` and `dynamoctl`, as programs, and nothing else. So this crate depends on none of the product's, and what it
//! proves holds for whoever types the same commands.
//!
//! | module | what it holds |
//! |---|---|
//! | [`command`] | a program with a deadline |
//! | [`kubernetes`] | `kubectl` and `helm` against one API server, and waiting for conditions |
//! | [`machine`] | the Kubernetes on this machine that the script `cluster` starts, with its power switches |
//! | [`dynamoctl`] | `dynamoctl` where it reaches pods, and the workload that runs beside the scenario |
//! | [`world`] | what a step works on |
//! | [`guard`], [`background`] | what must hold at every moment, looked at beside the steps |
//! | [`scenario`] | the scenarios and their steps |
//! | [`report`] | what is printed, and the verdict |

pub mod background;
pub mod command;
pub mod dynamoctl;
pub mod guard;
pub mod kubernetes;
pub mod machine;
pub mod report;
pub mod scenario;
pub mod world;
