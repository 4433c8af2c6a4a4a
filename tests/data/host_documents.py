"""Capability documents of made-up hosts, and domains that need something of them; only what is read."""

from __future__ import annotations

from engine.domxml.capabilities import HostCpu, Profile
from engine.domxml.offer import HostCapabilities, PlatformOffer

CAPABILITIES = """
<capabilities>
  <host>
    <cpu>
      <arch>x86_64</arch><model>Haswell-noTSX</model><vendor>Intel</vendor>
      <signature family='6' model='63' stepping='2'/>
      <feature name='avx2'/><feature name='invtsc'/>
    </cpu>
    <secmodel><model>apparmor</model><doi>0</doi></secmodel>
    <secmodel>
      <model>dac</model><doi>0</doi>
      <baselabel type='kvm'>+64055:+108</baselabel><baselabel type='qemu'>+64055:+109</baselabel>
    </secmodel>
  </host>
  <guest>
    <os_type>hvm</os_type>
    <arch name='x86_64'>
      <emulator>/usr/bin/qemu-system-x86_64</emulator>
      <machine maxCpus='255'>pc-i440fx-9.2</machine>
      <machine canonical='pc-i440fx-9.2' maxCpus='255'>pc</machine>
      <machine maxCpus='4096'>pc-q35-9.2</machine>
      <machine canonical='pc-q35-9.2' maxCpus='4096'>q35</machine>
      <machine maxCpus='288' deprecated='yes'>pc-q35-4.2</machine>
      <domain type='qemu'/>
      <domain type='kvm'><emulator>/opt/qemu/kvm</emulator><machine>pc-q35-8.0</machine></domain>
    </arch>
  </guest>
  <guest>
    <os_type>hvm</os_type>
    <arch name='aarch64'>
      <emulator>/usr/bin/qemu-system-aarch64</emulator>
      <machine canonical='virt-9.2'>virt</machine><machine>virt-9.2</machine>
      <domain type='qemu'/>
    </arch>
  </guest>
</capabilities>
"""

DOMAIN_CAPABILITIES = """
<domainCapabilities>
  <path>/usr/bin/qemu-system-x86_64</path><domain>kvm</domain>
  <machine>pc-q35-9.2</machine><arch>x86_64</arch>
  <os supported='yes'>
    <loader supported='yes'>
      <value>/usr/share/OVMF/OVMF_CODE_4M.fd</value>
      <enum name='type'><value>rom</value><value>pflash</value></enum>
    </loader>
  </os>
  <cpu>
    <mode name='host-passthrough' supported='yes'/>
    <mode name='maximum' supported='no'/>
    <mode name='host-model' supported='yes'>
      <model fallback='forbid'>EPYC</model><vendor>AMD</vendor>
      <maxphysaddr mode='passthrough'/>
      <feature policy='require' name='x2apic'/><feature policy='disable' name='monitor'/>
    </mode>
    <mode name='custom' supported='yes'>
      <model usable='yes' vendor='unknown'>qemu64</model>
      <model usable='no' vendor='Intel'>Haswell</model>
      <blockers model='Haswell'><feature name='hle'/><feature name='rtm'/></blockers>
      <model usable='no' vendor='Intel'>Old</model>
    </mode>
  </cpu>
  <devices>
    <disk supported='yes'><enum name='bus'><value>virtio</value><value>sata</value></enum></disk>
    <video supported='yes'><enum name='modelType'/></video>
    <tpm supported='no'/>
    <rng supported='yes'/>
  </devices>
</domainCapabilities>
"""

#: A guest with a bit of everything.
DOMAIN = """
<domain type='kvm'>
  <name>web-1</name><uuid>0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d</uuid>
  <os firmware='efi'>
    <type arch='x86_64' machine='pc-q35-9.2'>hvm</type>
    <loader readonly='yes' secure='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/nvram/web-1.fd</nvram>
  </os>
  <cpu mode='custom' match='exact' check='partial'><model>EPYC</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
    <graphics type='spice'/>
    <video><model type='qxl'/></video>
    <hostdev mode='subsystem' type='usb'/>
    <hostdev mode='subsystem' type='mdev'/>
    <channel type='unix'/>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
  </devices>
</domain>
"""

#: What libvirt wrote behind it.
COOKIE = """
<cookie>
  <cpu mode='custom' match='exact' check='full'>
    <model fallback='forbid'>EPYC</model><vendor>AMD</vendor>
    <feature policy='require' name='x2apic'/>
    <feature policy='force' name='invtsc'/>
    <feature policy='optional' name='aes'/>
    <feature policy='disable' name='monitor'/>
    <feature policy='forbid' name='svm'/>
    <feature policy='require' name='osxsave'/>
  </cpu>
</cookie>
"""

CPU = HostCpu(
    architecture="x86_64", model="EPYC", vendor="AMD", signature="25/1", features=("avx", "invtsc", "sse2")
)
#: Offers DOMAIN with COOKIE all it needs.
PLATFORM = PlatformOffer(
    architecture="x86_64",
    virt_type="kvm",
    emulators=("/usr/bin/qemu-system-x86_64",),
    machines=("pc-q35-9.0", "pc-q35-9.2", "q35", "pc-i440fx-9.2"),
    aliases={"q35": "pc-q35-9.2"},
    cpu_modes=("host-passthrough", "host-model", "custom"),
    cpu_models={"EPYC": ("monitor",), "qemu64": (), "Haswell": ("hle", "rtm"), "Old": None},
    cpu_features=("avx", "sse2", "x2apic"),
    profiles=(
        Profile(
            family="pc-q35",
            devices={
                "disk.bus": ("virtio", "sata"),
                "disk.device": ("disk", "cdrom"),
                "graphics.type": ("vnc", "spice"),
                "video.model": ("vga", "qxl"),
                "hostdev.type": ("usb", "pci"),
                "tpm.model": ("tpm-crb",),
                "tpm.backend": ("emulator",),
                "loader.type": ("rom", "pflash"),
            },
            loaders=("/usr/share/OVMF/OVMF_CODE_4M.fd",),
        ),
    ),
)
HOST = HostCapabilities(
    libvirt_version="11.3.0",
    hypervisor_version="9.2.0",
    cpu=CPU,
    qemu_user="64055:108",
    platforms=(PLATFORM,),
)
