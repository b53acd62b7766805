//go:build unix

package chaos

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// A Fault is something that goes wrong for a while.
type Fault string

// The faults of the processes. While they last the process is down, or paused.
const (
	KillService  Fault = "kill the service"
	StopService  Fault = "stop the service"
	PauseService Fault = "pause the service"
	DeployLive   Fault = "reload the configuration"   // while it serves
	KillPostgres Fault = "kill Postgres"              // at once: its children end by themselves
	QuitPostgres Fault = "shut Postgres down at once" // immediate mode
	KillBackend  Fault = "kill the backend"
	KillDevice   Fault = "kill"
	PauseDevice  Fault = "pause"
)

// The faults of a network.
const (
	CutNetwork      Fault = "cut"
	TruncateNetwork Fault = "truncate"
	DelayNetwork    Fault = "delay"
	StallNetwork    Fault = "stall"
	SilenceNetwork  Fault = "silence"
	RefuseNetwork   Fault = "refuse"
)

// A Step is one fault of a round. Times are counted in commits of the load, or in
// what devices do.
type Step struct {
	After int // before it
	Fault
	Device  int    // of a client round: from 1; 0 is none
	Network string // of a service round "source" or "clients"; of a device "service" or "backend"
	Lasts   int    // until it is over
	ForGood bool   // half-open connections that nobody resets: who uses them must notice
	Amount  int    // bytes for truncate, milliseconds for delay

	// What happens while the service is down.
	Deploy   string // the sync config that it starts with next; empty: the same
	DropSlot bool
	Compact  bool
}

func (s Step) String() string {
	text := fmt.Sprintf("after %d: ", s.After)
	if s.Device > 0 {
		text += fmt.Sprintf("device %d: ", s.Device)
	}
	if s.Network != "" {
		text += "network to " + s.Network + ": "
	}
	text += string(s.Fault)
	if s.Amount > 0 {
		text += fmt.Sprintf(" %d", s.Amount)
	}
	if s.ForGood {
		text += " for good"
	}
	if s.Lasts > 0 {
		text += fmt.Sprintf(" for %d", s.Lasts)
	}
	for _, also := range []struct {
		done bool
		text string
	}{{s.DropSlot, "drop its slot"}, {s.Compact, "compact its storage"}, {s.Deploy != "", "deploy " + s.Deploy}} {
		if also.done {
			text += ", " + also.text
		}
	}
	return text
}

// A Plan is what a round does.
type Plan struct {
	Seed   uint64
	Bulk   int    // rows that are there at the start
	Warm   bool   // the steps begin when each client has completed a checkpoint
	Deploy string // the first sync config
	Steps  []Step
}

func (p Plan) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "seed %d", p.Seed)
	if p.Deploy != "" {
		fmt.Fprintf(&text, ": %d rows, deploy %s, warm %v", p.Bulk, p.Deploy, p.Warm)
	}
	for _, s := range p.Steps {
		fmt.Fprintf(&text, "\n  %s", s)
	}
	return text.String()
}

// ServicePlan makes the plan of a service round, of up to faults faults.
func ServicePlan(seed uint64, deploys []string, faults int) Plan {
	rng := rand.New(rand.NewPCG(seed, 1))
	p := Plan{Seed: seed, Bulk: 100, Warm: rng.IntN(3) > 0, Deploy: deploys[rng.IntN(len(deploys))]}
	if rng.IntN(2) == 0 {
		p.Bulk = 2000 + rng.IntN(6000)
	}
	for range 1 + rng.IntN(faults) {
		// Soon, so that it meets what the last one started; or later.
		s := Step{After: rng.IntN(30), Lasts: 1 + rng.IntN(30)}
		if rng.IntN(2) == 0 {
			s.After += rng.IntN(200)
		}
		switch n := rng.IntN(20); {
		case n < 7:
			s.Fault = KillService
		case n < 8:
			s.Fault = StopService
		case n < 9:
			s.Fault = PauseService
		case n < 11:
			s.Fault, s.Lasts = KillPostgres, 0
		case n < 12:
			s.Fault, s.Lasts = QuitPostgres, 0
		case n < 13:
			s.Fault, s.Lasts, s.Deploy = DeployLive, 0, deploys[rng.IntN(len(deploys))]
		default:
			s.Network = "source"
			if rng.IntN(4) == 0 {
				s.Network = "clients"
			}
			networkFault(rng, &s)
			// It takes the service a minute to notice, so this is rare.
			s.ForGood = s.Fault == SilenceNetwork && s.Network == "source" && rng.IntN(40) == 0
		}
		if s.Fault == KillService || s.Fault == StopService {
			if rng.IntN(2) == 0 {
				s.Deploy = deploys[rng.IntN(len(deploys))]
			}
			s.DropSlot, s.Compact = rng.IntN(6) == 0, rng.IntN(6) == 0
		}
		p.Steps = append(p.Steps, s)
	}
	return p
}

// ClientPlan makes the plan of a client round with so many devices.
func ClientPlan(seed uint64, devices, faults int) Plan {
	rng := rand.New(rand.NewPCG(seed, 1))
	p := Plan{Seed: seed}
	for range 1 + rng.IntN(faults) {
		s := Step{After: rng.IntN(30), Lasts: 1 + rng.IntN(30)}
		switch n := rng.IntN(20); {
		case n < 6:
			s.Fault, s.Device, s.Lasts = KillDevice, 1+rng.IntN(devices), 0
		case n < 8:
			s.Fault, s.Device = PauseDevice, 1+rng.IntN(devices)
		case n < 15:
			s.Device, s.Network = 1+rng.IntN(devices), []string{"service", "backend"}[rng.IntN(2)]
			networkFault(rng, &s)
		case n < 17:
			s.Fault = KillService
		case n < 18:
			s.Fault = PauseService
		case n < 19:
			s.Fault = KillBackend
		default:
			s.Fault, s.Lasts = QuitPostgres, 0
		}
		p.Steps = append(p.Steps, s)
	}
	return p
}

func networkFault(rng *rand.Rand, s *Step) {
	faults := []Fault{CutNetwork, TruncateNetwork, DelayNetwork, StallNetwork, SilenceNetwork, RefuseNetwork}
	s.Fault = faults[rng.IntN(len(faults))]
	switch s.Fault {
	case CutNetwork:
		s.Lasts = 0
	case TruncateNetwork:
		s.Lasts, s.Amount = 0, rng.IntN(5000)
	case DelayNetwork:
		s.Amount = 1 + rng.IntN(20)
	}
}

// Break begins a network's fault.
func (p *Proxy) Break(s Step) {
	switch s.Fault {
	case CutNetwork:
		p.Cut()
	case TruncateNetwork:
		p.Truncate(s.Amount)
	case DelayNetwork:
		p.Delay(time.Duration(s.Amount) * time.Millisecond)
	case StallNetwork:
		p.Stall()
	case SilenceNetwork:
		p.Silence()
	case RefuseNetwork:
		p.Refuse()
	default:
		panic("no fault of a network: " + s.String())
	}
}

// Mend ends a network's fault.
func (p *Proxy) Mend(s Step) {
	p.Heal()
	if s.Fault == SilenceNetwork && !s.ForGood {
		p.Cut() // what the peers would notice by themselves after a minute
	}
}
