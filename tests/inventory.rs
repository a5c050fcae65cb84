//! Every inventory that an operator has, and nova.conf, through the binary. The answers of the API are written here after
//! the samples that nova publishes for each microversion.

use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::time::Duration;

use crate::common::{DAY, HOST, Run, World, domain, file_disk, list, text};
use serde_json::{Value, json};

const OLD: Duration = Duration::from_secs(30 * 24 * 3600);
const ID: &str = "f5dc173b-6804-445a-a6d8-c705dad5b5eb";
const IMAGE: &str = "70a599e0-31e7-49b7-b260-868f441e862b";
const KERNEL: &str = "155d900f-4e14-4e4c-a73d-069cbf4541e6";
const NO_ARGS: [&str; 0] = [];

/// A cache with an image, a kernel, swap and ephemeral, all old.
struct Cache {
    world: World,
    image: String,
    kernel: String,
}

const SWAP: &str = "swap_512";
const EPHEMERAL: &str = "ephemeral_10_40d1d2c";

impl Cache {
    fn new() -> Self {
        let world = World::new();
        let (image, kernel) = (world.original(IMAGE, OLD), world.original(KERNEL, OLD));
        world.cache_file(SWAP, OLD);
        crate::common::plain_qcow2(&world.path(ID).join("disk"));
        world.cache_file(EPHEMERAL, OLD);
        Self { world, image, kernel }
    }

    fn explain(&self, inventory: &Value) -> Run {
        self.world.inventory(inventory);
        self.world.explain(NO_ARGS)
    }

    /// Which of image, kernel, swap and ephemeral are in use.
    fn used(&self, run: &Run) -> [bool; 4] {
        [&self.image, &self.kernel, SWAP, EPHEMERAL].map(|it| run.verdict(it) == "in_use")
    }
}

/// What every row of `GET /servers/detail` has at microversion 2.1 for a user who is no administrator.
fn server() -> Value {
    json!({
        "id": ID, "name": "instance-0000ffff", "status": "ACTIVE", "tenant_id": "t", "user_id": "u", "metadata": {},
        "hostId": "bcf92836fc9ed4203a75cb0337afc7f917d2be504164b995c2334b25", "key_name": null, "config_drive": "",
        "image": {"id": IMAGE, "links": [{"rel": "bookmark", "href": "/images/x"}]},
        "flavor": {"id": "1", "links": [{"rel": "bookmark", "href": "/flavors/1"}]},
        "addresses": {"private": [{"addr": "192.168.1.30", "version": 4, "OS-EXT-IPS:type": "fixed"}]},
        "links": [{"rel": "self", "href": "/servers/x"}], "created": "2013-09-03T04:01:32Z", "progress": 0,
        "accessIPv4": "", "accessIPv6": "", "OS-DCF:diskConfig": "AUTO", "OS-EXT-AZ:availability_zone": "nova",
        "OS-EXT-STS:power_state": 1, "OS-EXT-STS:task_state": null, "OS-EXT-STS:vm_state": "active",
        "OS-SRV-USG:launched_at": "2013-09-23T13:53:12.774549", "OS-SRV-USG:terminated_at": null,
        "os-extended-volumes:volumes_attached": [], "security_groups": [{"name": "default"}],
    })
}

/// A row with other keys on top of [`server`].
fn server_with(more: &Value) -> Value {
    let mut row = server();
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    row
}

fn admin_2_1() -> Value {
    json!({"OS-EXT-SRV-ATTR:host": HOST, "OS-EXT-SRV-ATTR:hypervisor_hostname": "compute-1.domain",
        "OS-EXT-SRV-ATTR:instance_name": "instance-00000001"})
}

/// 2.3 adds more for administrators, and `delete_on_termination`; 2.9 `locked`; 2.16 `host_status`; 2.19 `description`;
/// 2.26 `tags`.
fn admin_2_26() -> Value {
    let mut more = admin_2_1();
    more.as_object_mut().unwrap().extend(
        json!({"OS-EXT-SRV-ATTR:kernel_id": KERNEL, "OS-EXT-SRV-ATTR:ramdisk_id": "", "OS-EXT-SRV-ATTR:user_data": "aGk=",
            "OS-EXT-SRV-ATTR:hostname": "h", "OS-EXT-SRV-ATTR:launch_index": 0, "OS-EXT-SRV-ATTR:root_device_name": "/dev/vda",
            "OS-EXT-SRV-ATTR:reservation_id": "r-1", "os-extended-volumes:volumes_attached":
            [{"id": "v", "delete_on_termination": false}], "locked": false, "host_status": "UP", "description": null,
            "tags": ["a"]})
        .as_object()
        .unwrap()
        .clone(),
    );
    more
}

/// 2.47 puts the flavor itself in; 2.63 `trusted_image_certificates`, 2.71 `server_groups`, 2.73 `locked_reason`, 2.96
/// `pinned_availability_zone`, 2.98 the image's properties, 2.100 `scheduler_hints`.
fn newest(more: Value, swap: Value) -> Value {
    let mut row = server_with(&more);
    row["flavor"] = json!({"vcpus": 1, "ram": 512, "disk": 1, "ephemeral": 10, "swap": swap, "original_name": "m1.tiny",
        "extra_specs": {"hw:numa_nodes": "1"}});
    if row["image"] != "" {
        row["image"]["properties"] = json!({"architecture": "x86_64", "img_signature": null});
    }
    for (key, value) in [
        ("trusted_image_certificates", json!(null)),
        ("server_groups", json!([])),
        ("locked_reason", json!(null)),
        ("pinned_availability_zone", json!(null)),
        ("scheduler_hints", json!({})),
    ] {
        row[key] = value;
    }
    row
}

#[test]
fn answers_of_every_microversion_are_read() {
    let cache = Cache::new();
    let without = |key: &str, mut row: Value| {
        row.as_object_mut().unwrap().remove(key);
        row
    };
    let volume = json!({"image": ""});
    let no_flavor = ["lacks_swap", "lacks_ephemeral"];
    let nothing = ["lacks_kernel", "lacks_swap", "lacks_ephemeral"];
    for (name, row, used, warnings) in [
        ("2.1", server(), [true, false, false, false], &nothing[..]),
        ("2.1, administrator", server_with(&admin_2_1()), [true, false, false, false], &nothing),
        ("2.1, volume", server_with(&volume), [false; 4], &nothing),
        ("2.1, no flavor", without("flavor", server()), [true, false, false, false], &nothing),
        ("2.26, administrator", server_with(&admin_2_26()), [true, true, false, false], &no_flavor),
        ("2.47", newest(json!({}), json!(512)), [true, false, true, true], &["lacks_kernel"]),
        ("2.47, no swap", newest(json!({}), json!(0)), [true, false, false, true], &["lacks_kernel"]),
        ("2.47, swap as text", newest(json!({}), json!("")), [true, false, false, true], &["lacks_kernel"]),
        ("newest, administrator", newest(admin_2_26(), json!(512)), [true; 4], &[]),
        ("newest, volume", newest(volume.clone(), json!(512)), [false, false, true, true], &["lacks_kernel"]),
    ] {
        let run = cache.explain(&json!({"servers": [row]})).exits(0);
        assert_eq!(cache.used(&run), used, "{name}");
        assert_eq!(run.warnings(), warnings, "{name}");
    }
}

#[test]
fn a_cell_that_is_down_makes_everything_unknown() {
    let cache = Cache::new();
    // What 2.69 gives of a server there.
    let down = json!({"id": "b6b0410f", "status": "UNKNOWN", "tenant_id": "t", "created": "2018-12-03T21:06:18Z",
        "links": [{"rel": "self", "href": "/servers/x"}]});
    let run = cache.explain(&json!({"servers": [server(), down]})).exits(1);
    assert_eq!(run.json()["complete"], false);
    assert_eq!(run.verdict(&cache.image), "in_use");
    assert_eq!(run.verdict(&cache.kernel), "unknown");
    assert_eq!(cache.world.dry_run(NO_ARGS).exits(1).outcome(&cache.kernel), "kept");
    cache.world.prune(NO_ARGS).refused(&["incomplete", "b6b0410f"]);
}

#[test]
fn a_next_link_needs_the_page_after_it() {
    let cache = Cache::new();
    let link = json!([{"rel": "next", "href": format!("/v2.1/servers/detail?limit=1&marker={ID}")}]);
    cache.world.file("first", json!({"servers": [server()], "servers_links": link}).to_string());
    cache.world.file("last", json!({"servers": [{"id": "b", "image": ""}]}).to_string());
    let alone = cache.world.explain(["--inventory", "first"]).exits(1);
    assert_eq!(alone.verdict(&cache.kernel), "unknown");
    let both = cache.world.explain(["--inventory", "last", "--inventory", "first"]).exits(0);
    assert_eq!(both.verdict(&cache.kernel), "removable");
}

#[test]
fn the_clients_list_is_read() {
    let cache = Cache::new();
    let row = |more: Value| {
        let mut row = json!({"ID": ID, "Name": "web", "Status": "ACTIVE", "Task State": null, "Power State": 1,
            "Networks": {"private": ["10.0.0.1"]}, "Image Name": "debian", "Image ID": IMAGE, "Flavor Name": "m1.tiny",
            "Flavor ID": "1", "Availability Zone": "nova", "Host": HOST, "Properties": {}});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let run = cache.explain(&json!([row(json!({}))])).exits(0);
    assert_eq!(cache.used(&run), [true, false, false, false]);
    assert_eq!(run.warnings(), ["lacks_kernel", "lacks_swap", "lacks_ephemeral"]);
    for (more, used) in [
        (json!({"Image ID": "N/A (booted from volume)"}), false),
        (json!({"Image ID": ""}), false),
        (json!({"Host": "compute-2"}), false),
        (json!({"Host": null}), true),
        (json!({"Host": null, "Status": "SHELVED_OFFLOADED"}), false),
        (json!({"Host": "", "Status": "ERROR"}), false),
    ] {
        // Without a directory here.
        let mut row = row(more.clone());
        row["ID"] = json!("another");
        assert_eq!(cache.used(&cache.explain(&json!([row])).exits(0))[0], used, "{more}");
    }
}

#[test]
fn the_same_instance_from_two_sources_is_one_and_contradictions_keep_both() {
    let cache = Cache::new();
    let listed = cache.world.file("list", json!([{"ID": ID, "Image ID": IMAGE, "Host": HOST}]).to_string());
    let own = json!([{"uuid": ID.to_uppercase(), "image_ref": KERNEL, "swap_mb": 512, "ephemeral_gb": 10}]);
    cache.world.inventory(&own);
    let run = cache.world.explain(["--inventory".as_ref(), listed.as_os_str()]).exits(0);
    assert_eq!(cache.used(&run), [true; 4]);
    assert_eq!(run.json()["inventory"]["instances"], 1);
    assert_eq!(list(&run.json()["inventory"]["sources"]).len(), 2);
    assert_eq!(run.warnings(), [""; 0]);
}

#[test]
fn domains_of_libvirt_are_instances_of_this_host() {
    for (namespace, nova, image_is_used) in [
        ("1.0", format!("<nova:root type='image' uuid='{IMAGE}'/>"), true),
        ("1.1", format!("<nova:root type='image' uuid='{IMAGE}'/>"), true),
        ("1.1", format!("<nova:image uuid='{IMAGE}'><nova:properties/></nova:image>"), true),
        ("1.1", "<nova:root type='volume' uuid=''/><nova:image uuid=''/>".into(), false),
    ] {
        let cache = Cache::new();
        let disk = cache.world.instance_disk(ID, &cache.kernel);
        let folder = cache.world.outside().join("qemu");
        for name in ["autostart", "networks"] {
            fs_err::create_dir_all(folder.join(name)).unwrap();
        }
        let file = folder.join("instance-0000000a.xml");
        let sizes = [("swap", 512), ("ephemeral", 10)];
        let sized = |xml: String, (field, size): (&str, u64)| {
            xml.replace(&format!("<nova:{field}>0<"), &format!("<nova:{field}>{size}<"))
        };
        let xml = sizes.into_iter().fold(domain(ID, &nova, &file_disk(&disk)), sized);
        fs_err::write(&file, xml.replace("nova/1.1", &format!("nova/{namespace}"))).unwrap();
        fs_err::write(folder.join("networks/default.xml"), "<network/>").unwrap();
        symlink(&file, folder.join("autostart/instance-0000000a.xml")).unwrap();
        nix::unistd::mkfifo(&folder.join("fifo.xml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&folder, &file] {
            let run = cache.world.explain(["--libvirt".as_ref(), path.as_os_str()]).exits(0);
            assert_eq!(cache.used(&run), [image_is_used, true, true, true], "{nova}");
            assert_eq!(run.codes(&cache.kernel), ["backing_file"]);
            assert_eq!(run.json()["inventory"]["instances"], 1);
            assert_eq!(run.warnings(), [""; 0]);
        }
    }
}

#[test]
fn a_malformed_inventory_is_refused_by_file_row_and_field_and_nothing_changes() {
    let cache = Cache::new();
    for (content, words) in [
        ("", &["is empty"][..]),
        ("ID,Name\n1,x\n", &["is CSV", "-f json"]),
        ("[{\"uuid\": \"a\"", &["EOF"]),
        ("[{\"uuid\": \"a\"}, {\"uuid\": \"b\", \"swap_mb\": \"x\"}]", &["row 2", "\"swap_mb\""]),
        ("[{\"ID\": \"a\", \"Image\": \"cirros\"}]", &["--long"]),
        ("{\"servers\": [{\"id\": \"a\", \"name\": \"x\", \"links\": []}]}", &["GET /servers/detail"]),
        ("<domain/>", &["is XML", "--libvirt"]),
    ] {
        cache.world.file("inventory.json", content);
        let before = cache.world.snapshot();
        for run in [cache.world.explain(NO_ARGS), cache.world.prune(NO_ARGS)] {
            run.refused(&[&["inventory.json"], words].concat());
        }
        before.assert_same(&cache.world.snapshot());
    }
    cache.world.inventory(&json!([]));
    let file = cache.world.file("domain.xml", "<network/>");
    let run = cache.world.explain(["--libvirt".as_ref(), file.as_os_str()]);
    run.refused(&["domain.xml", "is no domain XML"]);
}

#[test]
fn standard_input_is_an_inventory_like_another() {
    let cache = Cache::new();
    let mut command = cache.world.command();
    command.args(["explain", "-f", "json", "--host", HOST, "--inventory", "-", "-p"]);
    command.arg(cache.world.instances_path());
    command.write_stdin(json!({"servers": [server()]}).to_string());
    let run = Run::of(&mut command).exits(0);
    assert_eq!(cache.used(&run), [true, false, false, false]);
    assert_eq!(run.json()["inventory"]["sources"], json!(["standard input"]));
}

#[test]
fn nova_conf_stands_behind_the_flags() {
    let world = World::new();
    let file = world.original(IMAGE, 2 * DAY);
    fs_err::rename(world.path("_base"), world.path("_base_10.0.0.1")).unwrap();
    let conf = world.file(
        "nova.conf",
        format!(
            "[DEFAULT]\nstate_path = {}\nmy_ip = 10.0.0.1\nhost = {HOST}\n[image_cache]\nsubdirectory_name = _base_$my_ip\n\
             remove_unused_original_minimum_age_seconds = 259200\nremove_unused_base_images = False\n",
            world.outside().display()
        ),
    );
    let inventory = world.file("inventory.json", json!([{"uuid": ID, "host": HOST}]).to_string());
    let explain = |more: &[&str]| {
        let mut command = world.command();
        command.args(["explain", "-f", "json", "--inventory"]).arg(&inventory);
        Run::of(command.arg("--config-file").arg(&conf).args(more))
    };
    let run = explain(&[]).exits(0);
    assert_eq!(run.verdict(&file), "too_young");
    assert_eq!(run.file(&file)["minimum_age_seconds"], 259_200);
    assert_eq!(run.json()["policy"]["host"], HOST);
    assert_eq!(text(&run.json()["cache_dir"]), world.path("_base_10.0.0.1").to_str().unwrap());
    assert_eq!(run.warnings(), ["remove_unused_base_images"]);
    assert_eq!(explain(&["--original-min-age", "1d"]).exits(0).verdict(&file), "removable");
    assert_eq!(explain(&["--host", "other"]).json()["policy"]["host"], "other");
    let run = explain(&["--subdirectory-name", "_none"]).exits(0);
    assert_eq!(text(&run.json()["cache_dir"]), world.path("_none").to_str().unwrap());
}

#[test]
fn an_inventory_may_be_a_pipe() {
    let cache = Cache::new();
    let fifo = cache.world.outside().join("pipe");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let rows = json!([{"uuid": ID, "image_ref": IMAGE}]).to_string();
    // As the shell's <(command) does.
    let mut writer = std::process::Command::new("sh")
        .args(["-c", "printf %s \"$1\" > \"$2\"", "sh"])
        .arg(rows)
        .arg(&fifo)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let run = cache.world.explain(["--inventory".as_ref(), fifo.as_os_str()]).exits(0);
    assert!(writer.wait().unwrap().success());
    assert_eq!(cache.used(&run), [true, false, false, false]);
}
