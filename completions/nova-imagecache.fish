# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_nova_imagecache_global_optspecs
    string join \n p/instances-path= subdirectory-name= config-file= f/format= q/quiet v/verbose h/help V/version
end

function __fish_nova_imagecache_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_nova_imagecache_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_nova_imagecache_using_subcommand
    set -l cmd (__fish_nova_imagecache_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c nova-imagecache -n "__fish_nova_imagecache_needs_command" -s p -l instances-path -d 'nova\'s instances_path [default: /var/lib/nova/instances, or what --config-file says]' -r -f -a "(__fish_complete_directories)"
complete -c nova-imagecache -n "__fish_nova_imagecache_needs_command" -l subdirectory-name -d 'Name of the cache directory under it [default: _base, or what --config-file says]' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_needs_command" -l config-file -d 'Read the instances path, cache directory, minimum ages and host from this nova.conf, where the command line does not give them; may be given several times, and the last file wins' -r -F
complete -c nova-imagecache -n "__fish_nova_imagecache_needs_command" -s f -l format -d 'Print a table for people or JSON for programs [default: table]' -r -f -a "table\t'For people'
json\t'For programs: nova-imagecache-json(5)'"
complete -c nova-imagecache -n "__fish_nova_imagecache_needs_command" -s q -l quiet -d 'Print no warnings or notes on stderr'
complete -c nova-imagecache -n "__fish_nova_imagecache_needs_command" -s v -l verbose -d 'Print notes and how the evidence was gathered on stderr, and all files of a prune'
complete -c nova-imagecache -n "__fish_nova_imagecache_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c nova-imagecache -n "__fish_nova_imagecache_needs_command" -s V -l version -d 'Print version'
complete -c nova-imagecache -n "__fish_nova_imagecache_needs_command" -f -a "fname" -d 'Print the cache file name of an image'
complete -c nova-imagecache -n "__fish_nova_imagecache_needs_command" -f -a "scan" -d 'List what is in the cache'
complete -c nova-imagecache -n "__fish_nova_imagecache_needs_command" -f -a "explain" -d 'Say for each file why it stays or can be removed'
complete -c nova-imagecache -n "__fish_nova_imagecache_needs_command" -f -a "prune" -d 'Remove what is unused and old enough'
complete -c nova-imagecache -n "__fish_nova_imagecache_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand fname" -s p -l instances-path -d 'nova\'s instances_path [default: /var/lib/nova/instances, or what --config-file says]' -r -f -a "(__fish_complete_directories)"
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand fname" -l subdirectory-name -d 'Name of the cache directory under it [default: _base, or what --config-file says]' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand fname" -l config-file -d 'Read the instances path, cache directory, minimum ages and host from this nova.conf, where the command line does not give them; may be given several times, and the last file wins' -r -F
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand fname" -s f -l format -d 'Print a table for people or JSON for programs [default: table]' -r -f -a "table\t'For people'
json\t'For programs: nova-imagecache-json(5)'"
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand fname" -s q -l quiet -d 'Print no warnings or notes on stderr'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand fname" -s v -l verbose -d 'Print notes and how the evidence was gathered on stderr, and all files of a prune'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand fname" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand fname" -s V -l version -d 'Print version'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand scan" -l images -d 'Images as JSON, to show names and what cannot be downloaded again: the output of "openstack image list --long -f json" or the answer to GET /v2/images; - is standard input; may be given several times' -r -F
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand scan" -s p -l instances-path -d 'nova\'s instances_path [default: /var/lib/nova/instances, or what --config-file says]' -r -f -a "(__fish_complete_directories)"
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand scan" -l subdirectory-name -d 'Name of the cache directory under it [default: _base, or what --config-file says]' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand scan" -l config-file -d 'Read the instances path, cache directory, minimum ages and host from this nova.conf, where the command line does not give them; may be given several times, and the last file wins' -r -F
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand scan" -s f -l format -d 'Print a table for people or JSON for programs [default: table]' -r -f -a "table\t'For people'
json\t'For programs: nova-imagecache-json(5)'"
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand scan" -s q -l quiet -d 'Print no warnings or notes on stderr'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand scan" -s v -l verbose -d 'Print notes and how the evidence was gathered on stderr, and all files of a prune'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand scan" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand scan" -s V -l version -d 'Print version'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -l inventory -d 'Instances as JSON: the tool\'s own list, the answer to GET /servers/detail, or the output of "openstack server list --all-projects --long -f json"; - is standard input; may be given several times' -r -F
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -l libvirt -d 'Instances as domain XML, a file or a folder of them, as in /etc/libvirt/qemu; may be given several times' -r -F
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -l host -d 'This host\'s name as nova knows it [default: what --config-file says, else the machine\'s host name]' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -l original-min-age -d 'Minimum age of unused images, swap and ephemeral files [default: 24h, or what --config-file says]' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -l resized-min-age -d 'Minimum age of unused resized copies [default: 1h, or what --config-file says]' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -l keep -d 'Keep these although they are unused: names of cache files, or ids of images for all that belongs to them; may be given several times' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -l images -d 'Images as JSON, to show names and what cannot be downloaded again: the output of "openstack image list --long -f json" or the answer to GET /v2/images; - is standard input; may be given several times' -r -F
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -l as-of -d 'Judge as if it were then: 2026-11-30T00:00:00Z, or +7d from now' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -s p -l instances-path -d 'nova\'s instances_path [default: /var/lib/nova/instances, or what --config-file says]' -r -f -a "(__fish_complete_directories)"
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -l subdirectory-name -d 'Name of the cache directory under it [default: _base, or what --config-file says]' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -l config-file -d 'Read the instances path, cache directory, minimum ages and host from this nova.conf, where the command line does not give them; may be given several times, and the last file wins' -r -F
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -s f -l format -d 'Print a table for people or JSON for programs [default: table]' -r -f -a "table\t'For people'
json\t'For programs: nova-imagecache-json(5)'"
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -l ignore-unlisted -d 'Ignore disks in directories of no instance in the inventory, as nova does: their backing files can be removed'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -l partials -d 'Judge interrupted downloads (.part, .converted) too'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -s q -l quiet -d 'Print no warnings or notes on stderr'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -s v -l verbose -d 'Print notes and how the evidence was gathered on stderr, and all files of a prune'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand explain" -s V -l version -d 'Print version'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l inventory -d 'Instances as JSON: the tool\'s own list, the answer to GET /servers/detail, or the output of "openstack server list --all-projects --long -f json"; - is standard input; may be given several times' -r -F
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l libvirt -d 'Instances as domain XML, a file or a folder of them, as in /etc/libvirt/qemu; may be given several times' -r -F
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l host -d 'This host\'s name as nova knows it [default: what --config-file says, else the machine\'s host name]' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l original-min-age -d 'Minimum age of unused images, swap and ephemeral files [default: 24h, or what --config-file says]' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l resized-min-age -d 'Minimum age of unused resized copies [default: 1h, or what --config-file says]' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l keep -d 'Keep these although they are unused: names of cache files, or ids of images for all that belongs to them; may be given several times' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l images -d 'Images as JSON, to show names and what cannot be downloaded again: the output of "openstack image list --long -f json" or the answer to GET /v2/images; - is standard input; may be given several times' -r -F
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l as-of -d 'Judge as if it were then: 2026-11-30T00:00:00Z, or +7d from now; only with --dry-run' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l until-free -d 'Remove the oldest files only until so much is free: 200GiB, or 20% of the filesystem that holds the cache' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l lock-wait -d 'How long to wait for nova\'s locks' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l settle -d 'How long files are set aside before everything is read again [default: 0.1s, or 61s on a network filesystem]' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l plan -d 'Remove at most what this output of prune --dry-run --format json would remove' -r -F
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -s p -l instances-path -d 'nova\'s instances_path [default: /var/lib/nova/instances, or what --config-file says]' -r -f -a "(__fish_complete_directories)"
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l subdirectory-name -d 'Name of the cache directory under it [default: _base, or what --config-file says]' -r
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l config-file -d 'Read the instances path, cache directory, minimum ages and host from this nova.conf, where the command line does not give them; may be given several times, and the last file wins' -r -F
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -s f -l format -d 'Print a table for people or JSON for programs [default: table]' -r -f -a "table\t'For people'
json\t'For programs: nova-imagecache-json(5)'"
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -s n -l dry-run -d 'Change nothing: show what would be removed'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l ignore-unlisted -d 'Ignore disks in directories of no instance in the inventory, as nova does: their backing files can be removed'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l partials -d 'Judge interrupted downloads (.part, .converted) too'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l disks-only -d 'Judge by the disks alone, without a list of instances'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -l allow-empty -d 'Go on although no instance uses this cache, or no instance directory holds a disk'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -s q -l quiet -d 'Print no warnings or notes on stderr'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -s v -l verbose -d 'Print notes and how the evidence was gathered on stderr, and all files of a prune'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand prune" -s V -l version -d 'Print version'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand help; and not __fish_seen_subcommand_from fname scan explain prune help" -f -a "fname" -d 'Print the cache file name of an image'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand help; and not __fish_seen_subcommand_from fname scan explain prune help" -f -a "scan" -d 'List what is in the cache'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand help; and not __fish_seen_subcommand_from fname scan explain prune help" -f -a "explain" -d 'Say for each file why it stays or can be removed'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand help; and not __fish_seen_subcommand_from fname scan explain prune help" -f -a "prune" -d 'Remove what is unused and old enough'
complete -c nova-imagecache -n "__fish_nova_imagecache_using_subcommand help; and not __fish_seen_subcommand_from fname scan explain prune help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
