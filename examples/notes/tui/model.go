package main

import (
	"context"
	"fmt"
	"strings"
	"unicode"

	"charm.land/bubbles/v2/key"
	"charm.land/bubbles/v2/list"
	"charm.land/bubbles/v2/progress"
	"charm.land/bubbles/v2/textinput"
	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"

	"github.com/millrace-sync/millrace/client"
)

// model is what the screen shows. It is a tea.Model.
type model struct {
	// ctx ends with the program; commands that write run under it.
	ctx   context.Context
	notes *notes

	list   list.Model
	input  textinput.Model
	typing bool
	editID string // of the note being edited; empty for a new one
	bar    progress.Model

	status client.Status
	queued int64
	online bool   // wanted
	said   string // what went wrong last
	width  int
}

var (
	keyAdd    = key.NewBinding(key.WithKeys("a"), key.WithHelp("a", "add"))
	keyEdit   = key.NewBinding(key.WithKeys("e", "enter"), key.WithHelp("e", "edit"))
	keyDelete = key.NewBinding(key.WithKeys("d", "delete"), key.WithHelp("d", "delete"))
	keyOnline = key.NewBinding(key.WithKeys("o"), key.WithHelp("o", "offline/online"))
	keyQuit   = key.NewBinding(key.WithKeys("q", "ctrl+c"), key.WithHelp("q", "quit"))
	keySave   = key.NewBinding(key.WithKeys("enter"))
	keyCancel = key.NewBinding(key.WithKeys("esc", "ctrl+c"))
)

var (
	styleTitle = lipgloss.NewStyle().Bold(true)
	styleGood  = lipgloss.NewStyle().Foreground(lipgloss.Green)
	styleBad   = lipgloss.NewStyle().Foreground(lipgloss.Red)
	styleDim   = lipgloss.NewStyle().Faint(true)
)

func newModel(ctx context.Context, n *notes) *model {
	delegate := list.NewDefaultDelegate()
	delegate.SetSpacing(0)
	l := list.New(nil, delegate, 0, 0)
	l.SetShowTitle(false)
	l.SetStatusBarItemName("note", "notes")
	l.DisableQuitKeybindings()
	l.KeyMap.PrevPage.SetKeys("left", "pgup")
	l.KeyMap.NextPage.SetKeys("right", "pgdown")
	actions := func() []key.Binding { return []key.Binding{keyAdd, keyEdit, keyDelete, keyOnline, keyQuit} }
	l.AdditionalShortHelpKeys, l.AdditionalFullHelpKeys = actions, actions
	in := textinput.New()
	in.CharLimit = maxMessage
	styles := in.Styles()
	styles.Cursor.Blink = false
	in.SetStyles(styles)
	return &model{ctx: ctx, notes: n, list: l, input: in, bar: progress.New(progress.WithWidth(20)), online: true}
}

func (m *model) Init() tea.Cmd { return nil }

// entry is a note in the list.
type entry note

func (e entry) Title() string       { return plain(e.Message) }
func (e entry) Description() string { return plain(strings.Trim(e.Author+" · "+e.CreatedAt, " ·")) }
func (e entry) FilterValue() string { return e.Message }

// plain keeps what a note holds from steering the terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '·'
	}, s)
}

func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width = msg.Width
		m.list.SetSize(msg.Width, max(0, msg.Height-headLines-1))
		m.input.SetWidth(max(1, msg.Width-len(promptNew)-1))
		return m, nil
	case notesMsg:
		return m, m.show(msg)
	case queueMsg:
		m.queued = int64(msg)
		return m, nil
	case statusMsg:
		m.status = client.Status(msg)
		return m, nil
	case rejectedMsg:
		m.said = fmt.Sprintf("refused by the backend: %s", msg.Reason)
		return m, nil
	case failedMsg:
		m.said = msg.err.Error()
		return m, nil
	case tea.KeyPressMsg:
		if m.typing {
			return m, m.edit(msg)
		}
		if cmd, taken := m.press(msg); taken {
			return m, cmd
		}
	}
	var cmd, cmd2 tea.Cmd
	m.list, cmd = m.list.Update(msg)
	if m.typing {
		m.input, cmd2 = m.input.Update(msg) // the cursor's blinking
	}
	return m, tea.Batch(cmd, cmd2)
}

// show replaces the list's notes; the same note stays selected.
func (m *model) show(all []note) tea.Cmd {
	selected, had := m.selected()
	items := make([]list.Item, len(all))
	at := min(m.list.Index(), max(0, len(all)-1))
	for i, n := range all {
		items[i] = entry(n)
		if had && n.ID == selected.ID {
			at = i
		}
	}
	cmd := m.list.SetItems(items)
	if !m.list.IsFiltered() {
		m.list.Select(at)
	}
	return cmd
}

func (m *model) selected() (note, bool) {
	e, ok := m.list.SelectedItem().(entry)
	return note(e), ok
}

// press acts on a key of ours; others are the list's.
func (m *model) press(msg tea.KeyPressMsg) (cmd tea.Cmd, taken bool) {
	if m.list.SettingFilter() {
		return nil, false
	}
	n, ok := m.selected()
	switch {
	case key.Matches(msg, keyQuit):
		return tea.Quit, true
	case key.Matches(msg, keyAdd):
		return m.ask("", ""), true
	case key.Matches(msg, keyEdit):
		if !ok {
			return nil, true
		}
		return m.ask(n.ID, n.Message), true
	case key.Matches(msg, keyDelete):
		if !ok {
			return nil, true
		}
		return m.do(func(ctx context.Context) error { return m.notes.remove(ctx, n.ID) }), true
	case key.Matches(msg, keyOnline):
		m.online = !m.online
		if m.online {
			return m.do(func(context.Context) error { return m.notes.connect() }), true
		}
		return m.do(func(context.Context) error { m.notes.db.Disconnect(); return nil }), true
	}
	return nil, false
}

const (
	promptNew  = "new note: "
	promptEdit = "text: "
)

// ask opens the input for a note.
func (m *model) ask(id, text string) tea.Cmd {
	m.typing, m.editID, m.said = true, id, ""
	m.input.Prompt = promptNew
	if id != "" {
		m.input.Prompt = promptEdit
	}
	m.input.SetValue(text)
	m.input.CursorEnd()
	return m.input.Focus()
}

// edit acts on a key while the input is open.
func (m *model) edit(msg tea.KeyPressMsg) tea.Cmd {
	switch {
	case key.Matches(msg, keyCancel):
		m.typing = false
		return nil
	case key.Matches(msg, keySave):
		m.typing = false
		id, text := m.editID, strings.TrimSpace(m.input.Value())
		return m.do(func(ctx context.Context) error {
			if id == "" {
				return m.notes.add(ctx, text)
			}
			return m.notes.edit(ctx, id, text)
		})
	}
	var cmd tea.Cmd
	m.input, cmd = m.input.Update(msg)
	return cmd
}

// do runs what may take a moment aside of the screen.
func (m *model) do(f func(context.Context) error) tea.Cmd {
	ctx := m.ctx
	m.said = ""
	return func() tea.Msg {
		if err := f(ctx); err != nil {
			return failedMsg{err}
		}
		return nil
	}
}

// headLines is how many lines stand above the list.
const headLines = 3

func (m *model) View() tea.View {
	foot := ""
	switch {
	case m.typing:
		foot = m.input.View()
	case m.said != "":
		foot = styleBad.Render(m.line(m.said))
	}
	v := tea.NewView(strings.Join([]string{m.head(), m.activity(), "", m.list.View(), foot}, "\n"))
	v.AltScreen = true
	v.WindowTitle = "notes of " + plain(m.notes.user)
	return v
}

// line cuts a text to one line of the screen.
func (m *model) line(s string) string {
	return lipgloss.NewStyle().MaxWidth(m.width).Render(plain(s))
}

// head tells who this is and how the connection is.
func (m *model) head() string {
	state := styleBad.Render("○ not connected")
	switch s := &m.status; {
	case !m.online:
		state = styleDim.Render("○ offline")
	case s.Connected:
		state = styleGood.Render("● connected")
	case s.Connecting:
		state = styleDim.Render("◌ connecting")
	}
	return styleTitle.Render("notes of "+plain(m.notes.user)) + "  " + state
}

// activity tells what is on its way, down and up.
func (m *model) activity() string {
	s := &m.status
	var parts []string
	switch d := s.Downloaded(client.AllPriorities); {
	case d.Total > 0 && d.Downloaded < d.Total:
		parts = append(parts, fmt.Sprintf("%s %d of %d", m.bar.ViewAs(float64(d.Downloaded)/float64(d.Total)), d.Downloaded, d.Total))
	case s.HasSynced():
		parts = append(parts, "synced "+s.LastSyncedAt.Local().Format("15:04:05"))
	default:
		parts = append(parts, "never synced")
	}
	switch {
	case m.queued == 0:
		parts = append(parts, "all uploaded")
	case s.Uploading:
		parts = append(parts, fmt.Sprintf("uploading %d", m.queued))
	default:
		parts = append(parts, fmt.Sprintf("%d to upload", m.queued))
	}
	text := strings.Join(parts, " · ")
	for _, err := range []error{s.DownloadError, s.UploadError} {
		if err != nil && m.online {
			text += styleBad.Render(" · " + plain(err.Error()))
		}
	}
	return lipgloss.NewStyle().MaxWidth(m.width).Render(text)
}
