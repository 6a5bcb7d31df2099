//! Who may call which method: one table of the policy options of `proto` and those of health and reflection. Methods
//! that are not in it are refused (default deny). Also the list of removed operators, who may not call any more.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, LazyLock},
};

use arc_swap::ArcSwap;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use proto::{Caller, OperatorName, POLICIES};
use tokio::sync::watch;

/// The policy and shape of one method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `/package.Service/Method`.
    pub path: &'static str,
    /// Only these roles may call.
    pub callers: &'static [Caller],
    /// A client may repeat the call by itself.
    pub idempotent: bool,
    /// The number of the field `request_id`, where the request must have one.
    pub request_id: Option<u32>,
    /// The method streams, in one direction or both.
    pub streaming: bool,
}

const EVERYBODY: &[Caller] =
    &[Caller::Viewer, Caller::Operator, Caller::Central, Caller::Registry, Caller::Weather, Caller::Dashboard];

/// Standard gRPC services that every server offers to every caller with a certificate of the mesh.
const FOR_EVERYBODY: [(&str, bool); 4] = [
    ("/grpc.health.v1.Health/Check", false),
    ("/grpc.health.v1.Health/Watch", true),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", true),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", true),
];

static RULES: LazyLock<HashMap<&'static str, Rule>> = LazyLock::new(|| {
    let shapes = shapes();
    let ours = POLICIES.iter().map(|policy| {
        let shape = shapes.get(policy.path).copied().unwrap_or_default();
        Rule {
            path: policy.path,
            callers: policy.callers,
            idempotent: policy.idempotent,
            request_id: policy.request_id.then_some(shape.request_id),
            streaming: shape.streaming,
        }
    });
    let others = FOR_EVERYBODY.map(|(path, streaming)| Rule {
        path,
        callers: EVERYBODY,
        idempotent: true,
        request_id: None,
        streaming,
    });
    ours.chain(others).map(|rule| (rule.path, rule)).collect()
});

/// The rule for the method at `/package.Service/Method`.
pub fn rule(path: &str) -> Option<&'static Rule> {
    RULES.get(path)
}

/// All rules.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    RULES.values()
}

/// What the descriptors say about a method. No field has the number 0, so a request without the field `request_id` that
/// its policy requires is always refused.
#[derive(Clone, Copy, Default)]
struct Shape {
    request_id: u32,
    streaming: bool,
}

fn shapes() -> HashMap<String, Shape> {
    let files = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap_or_default().file;
    let mut request_ids = HashMap::new();
    for file in &files {
        for message in &file.message_type {
            let field = message.field.iter().find(|field| field.name() == "request_id");
            let number = field.and_then(|field| u32::try_from(field.number()).ok()).unwrap_or(0);
            request_ids.insert(format!(".{}.{}", file.package(), message.name()), number);
        }
    }
    let methods = files.iter().flat_map(|file| file.service.iter().map(move |service| (file, service)));
    methods
        .flat_map(|(file, service)| service.method.iter().map(move |method| (file, service, method)))
        .map(|(file, service, method)| {
            let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
            let request_id = request_ids.get(method.input_type()).copied().unwrap_or(0);
            (path, Shape { request_id, streaming: method.client_streaming() || method.server_streaming() })
        })
        .collect()
}

/// The removed operators and viewers: their calls are refused although their certificates are valid (SPEC 7.3), and
/// their running streams end. Cheap to clone; clones share one list.
#[derive(Clone)]
pub struct DenyList(Arc<DenyListState>);

struct DenyListState {
    names: ArcSwap<HashSet<OperatorName>>,
    changed: watch::Sender<()>,
}

impl Default for DenyList {
    fn default() -> Self {
        Self(Arc::new(DenyListState { names: ArcSwap::default(), changed: watch::channel(()).0 }))
    }
}

impl DenyList {
    pub fn contains(&self, name: &OperatorName) -> bool {
        self.0.names.load().contains(name)
    }

    pub fn deny(&self, name: &OperatorName) {
        self.change(|names| names.insert(name.clone()));
    }

    /// The operator was added again.
    pub fn allow(&self, name: &OperatorName) {
        self.change(|names| names.remove(name));
    }

    /// Replaces the whole list, as after a restart.
    pub fn replace(&self, names: HashSet<OperatorName>) {
        self.0.names.store(Arc::new(names));
        self.0.changed.send_replace(());
    }

    fn change(&self, change: impl Fn(&mut HashSet<OperatorName>) -> bool) {
        self.0.names.rcu(|names| {
            let mut names = HashSet::clone(names);
            change(&mut names);
            names
        });
        self.0.changed.send_replace(());
    }

    /// Waits until `name` is on the list.
    pub(crate) async fn denied(&self, name: &OperatorName) {
        let mut changes = self.0.changed.subscribe();
        while !self.contains(name) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl fmt::Debug for DenyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DenyList").field(&self.0.names.load()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn methods_of(descriptors: &[u8]) -> Vec<String> {
        let mut paths = Vec::new();
        for file in FileDescriptorSet::decode(descriptors).unwrap().file {
            for service in &file.service {
                paths.extend(
                    service.method.iter().map(|m| format!("/{}.{}/{}", file.package(), service.name(), m.name())),
                );
            }
        }
        paths
    }

    #[test]
    fn every_method_of_every_service_has_a_policy_health_and_reflection_included() {
        let all = [
            proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let methods: HashSet<String> = all.into_iter().flat_map(methods_of).collect();
        for path in &methods {
            let rule = rule(path).unwrap_or_else(|| panic!("{path} has no policy"));
            assert!(!rule.callers.is_empty(), "{path} may be called by nobody");
        }
        assert_eq!(rules().count(), methods.len(), "and no policy is for a method that does not exist");
    }

    #[test]
    fn a_method_that_demands_a_request_id_has_a_field_for_it() {
        for rule in rules().filter(|rule| rule.request_id.is_some()) {
            assert_ne!(rule.request_id, Some(0), "{}", rule.path);
            assert!(!rule.streaming, "{}: only a single request can be checked", rule.path);
        }
    }
}
